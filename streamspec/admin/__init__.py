"""What a person or a scraper asks a running service over HTTP; reads telemetry only."""
