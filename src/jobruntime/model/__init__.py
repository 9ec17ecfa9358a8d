"""What a job is: pure types and rules, without I/O and without any other package of the project."""
