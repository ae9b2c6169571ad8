"""What can be wrong around a picker, looked for: each file is a group of checks that give findings."""
