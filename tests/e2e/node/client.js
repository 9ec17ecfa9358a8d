// A client in another language: one call of the API, made from the proto file alone.
//
//   node client.js ADDRESS CA CERT KEY METHOD REQUEST_AS_JSON
//
// Prints each message of the answer as a line of JSON (bytes in base64, 64-bit numbers as text). An
// error is one line, too: {"error": {"code": NAME, "message": TEXT}}, with exit code 1.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const DEADLINE_MS = 30_000;
const [address, ca, cert, key, method, request] = process.argv.slice(2);

const definition = loader.loadSync("service.proto", {
  includeDirs: [path.join(__dirname, "../../../proto")],
  keepCase: true,
  bytes: String,
  enums: String,
  longs: String,
  oneofs: true,
});
const { JobService } = grpc.loadPackageDefinition(definition).jobruntime.v1;
const credentials = grpc.credentials.createSsl(
  ...[ca, key, cert].map((file) => fs.readFileSync(file)),
);
const client = new JobService(address, credentials);

function print(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

function end(error) {
  if (error) {
    print({ error: { code: grpc.status[error.code], message: error.details } });
    process.exitCode = 1;
  }
  client.close();
}

const options = { deadline: Date.now() + DEADLINE_MS };
if (JobService.service[method].responseStream) {
  const stream = client[method](JSON.parse(request), options);
  stream.on("data", print);
  stream.on("error", end);
  stream.on("end", () => client.close());
} else {
  client[method](JSON.parse(request), options, (error, message) => {
    if (message) print(message);
    end(error);
  });
}
