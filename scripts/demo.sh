#!/usr/bin/env bash
# Shows the system at work, in .demo, and takes everything away again. Each step says what it shows,
# prints the command and checks what came out of it: the exit code is 0 only if all of it was so.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/.venv/bin/python
PATH=$PWD/.venv/bin:$PATH
unset JOBC_ADDR JOBC_CA JOBC_CERT JOBC_KEY

exec 9<scripts/demo.sh
flock --nonblock 9 || {
	echo "cannot run the demo: another one is running in this checkout" >&2
	exit 1
}

server=""

# Ends whatever the demo has started and removes what it has made, however it ends itself.
clean_up() {
	local code=$?
	trap '' INT TERM HUP PIPE
	trap - EXIT
	if [ "$code" != 0 ] && [ "$code" -lt 128 ] && [ -s .demo/serve.log ]; then
		echo "the server said:" >&2
		cat .demo/serve.log >&2
	fi
	if ! remove_instance; then
		[ "$code" != 0 ] || code=1
		echo "cannot clean up: look into .demo" >&2
	fi
	exit "$code"
}

remove_instance() {
	local work
	[ -e .demo ] || return 0
	if [ -f .demo/jobd.toml ]; then
		if ! jobd stop --config .demo/jobd.toml --jobs >.demo/stop.log 2>&1; then
			cat .demo/stop.log >&2
			return 1
		fi
		[ -z "$server" ] || wait "$server" || true
		# As root and below a directory that others may not enter, init puts the jobs' directories here.
		work=$(sed -n 's|^work_dir = "\(/var/lib/jobd/work-[0-9a-z]*\)"$|\1|p' .demo/jobd.toml)
		[ -z "$work" ] || rm -rf "$work"
	fi
	rm -rf .demo
}

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$1"; }

fail() {
	echo "the demo failed: $1" >&2
	exit 1
}

# run COMMAND: prints the command and its output; they stay in $out and $code.
run() {
	printf '$ %s\n' "$1"
	code=0
	out=$(eval "$1" 2>&1 9<&-) || code=$?
	[ -z "$out" ] || printf '%s\n' "$out"
}

# expect CODE PATTERN: the last command exited with the code, and its whole output matches.
expect() {
	[ "$code" = "$1" ] || fail "exit code $1 was expected, and it was $code"
	[[ $out =~ ^($2)$ ]] || fail "the output is not what was expected: $2"
}

# become USER: what follows is called with this user's certificate.
become() {
	export JOBC_CERT=.demo/pki/clients/$1.crt JOBC_KEY=.demo/pki/clients/$1.key
	printf '$ export JOBC_CERT=%s JOBC_KEY=%s\n' "$JOBC_CERT" "$JOBC_KEY"
}

# lives WORD: whether a process has this argument.
lives() {
	local file words
	for file in /proc/[0-9]*/cmdline; do
		words=$({ tr '\0' '\n' <"$file"; } 2>/dev/null) || continue
		[[ $'\n'$words$'\n' != *$'\n'"$1"$'\n'* ]] || return 0
	done
	return 1
}

# expect_gone WORD WHAT: no process with this argument is left, or at least not for long.
expect_gone() {
	local deadline=$((SECONDS + 10))
	while lives "$1"; do
		[ "$SECONDS" -lt "$deadline" ] || fail "$2 is still there"
		sleep 0.05
	done
}

# follow COMMAND: prints each line when it comes; the times of the first and the last one, in
# microseconds, are in $first and $last, and all lines in .demo/lines.
follow() {
	local line
	printf '$ %s\n' "$1"
	first="" last=""
	while IFS= read -r line; do
		last=${EPOCHREALTIME/[.,]/}
		first=${first:-$last}
		printf '%s\n' "$line" | tee -a .demo/lines
	done < <(eval "$1" 9<&- && echo "ended" >.demo/followed)
	wait $! || true
	[ -f .demo/followed ] || fail "jobc logs did not end with 0"
}

uuid='[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}'
remove_instance || fail "what an earlier demo has left in .demo can't be removed"

step "Make an instance: a CA, the certificates of server and administrator, a configuration"
run "jobd init --dir .demo --listen 127.0.0.1:0 --admin admin </dev/null"
expect 0 "Made an instance in .*"
jobs_dir=$(sed -n "s/^  jobs' directories in  *//p" <<<"$out") # an argument of the spawner's and keepers'

step "Make two users' certificates"
for user in alice bob; do
	run "jobd cert issue $user --role user --dir .demo"
	expect 0 ".*$user.*"
done

step "Start the server, on any free port"
echo '$ jobd serve --config .demo/jobd.toml &'
jobd serve --config .demo/jobd.toml 2>.demo/serve.log </dev/null 9<&- &
server=$!
deadline=$((SECONDS + 30))
until grep -q "serving on" .demo/serve.log; do
	kill -0 "$server" 2>/dev/null || fail "the server has ended"
	[ "$SECONDS" -lt "$deadline" ] || fail "the server does not answer"
	sleep 0.05
done
cut -d ' ' -f 3- .demo/serve.log
JOBC_ADDR=$(sed -n 's/.*serving on \([^;]*\);.*/\1/p' .demo/serve.log)
export JOBC_ADDR JOBC_CA=.demo/pki/ca.crt
printf '$ export JOBC_ADDR=%s JOBC_CA=%s\n' "$JOBC_ADDR" "$JOBC_CA"

step "As alice, start a job that prints for some seconds, on stdout and stderr"
become alice
# shellcheck disable=SC2016 # the job's own shell expands it
counting='n=1
while [ $n -le 24 ]; do
    echo "$(seq ${n}000 ${n}999 | factor | grep -c "^[0-9]*: [0-9]*$") primes from ${n}000 to ${n}999"
    [ $((n % 8)) != 0 ] || echo "load $(cut -d " " -f 1-3 /proc/loadavg)" >&2
    n=$((n + 1))
    sleep 0.25
done'
run "jobc start sh -c '$counting'"
expect 0 "$uuid"
primes=$out

step "Follow it live: every line from the first one on, until the job ends"
follow "jobc logs $primes"
[ $((last - first)) -gt 3000000 ] || fail "the lines did not come live"
"$python" - .demo/lines <<'END' || fail "the lines are not what the job has printed"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert all(list(line) == ["log", "stream", "time"] for line in lines), "keys"
stdout = [line["log"] for line in lines if line["stream"] == "stdout"]
stderr = [line["log"] for line in lines if line["stream"] == "stderr"]
assert len(stdout) == 24 and stdout[0].startswith("135 primes from 1000 to 1999"), stdout
assert len(stderr) == 3 and all(line.startswith("load ") for line in stderr), stderr
END

step "It has finished"
run "jobc status $primes"
expect 0 'finished \(exit code: 0\)'

step "Another one is running"
run "jobc start sleep 86399.1"
expect 0 "$uuid"
sleeping=$out
run "jobc status $sleeping"
expect 0 running

step "A third one is stopped; the process that it had sent into a session of its own ends with it"
run "jobc start sh -c 'setsid sleep 86399.2 & sleep 86399.2'"
expect 0 "$uuid"
stopped=$out
run "jobc stop $stopped"
expect 0 ""
run "jobc status $stopped"
expect 0 'stopped \(signal: 15\)'
! lives 86399.2 || fail "a process of the stopped job is still there"

step "Bob gets the same answer for alice's job as for one that does not exist"
become bob
run "jobc status $sleeping"
expect 1 "jobc: cannot find job .*"
refused=${out//$sleeping/ID}
run "jobc status 00000000-0000-4000-8000-000000000000"
expect 1 "jobc: cannot find job .*"
[ "$refused" = "${out//00000000-0000-4000-8000-000000000000/ID}" ] || fail "the answers differ"
run "jobc stop $sleeping"
expect 1 "jobc: cannot find job .*"

step "The administrator may see it, and what it is"
become admin
run "jobc status -o wide $sleeping"
expect 0 $'.*\nOwner: +alice\n.*\nStatus: +running\n.*'

step "End the server and its jobs"
run "jobd stop --config .demo/jobd.toml --jobs"
expect 0 ".*"
expect_gone .demo/jobd.toml "the server"
wait "$server" || fail "the server's exit code was $?"
server=""
! lives 86399.1 || fail "a job is still there"
expect_gone "$jobs_dir" "a process of the server's"
remove_instance || fail "the instance can't be removed"
[ ! -e .demo ] || fail ".demo is still there"

printf '\nAll of it was so, and all of it is gone.\n'
