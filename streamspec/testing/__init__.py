"""Fakes and workloads for tests and benchmarks; nothing else imports it."""
