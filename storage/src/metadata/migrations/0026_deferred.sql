-- Blobs whose SHA-256 is computed after they came in, oldest first: it is empty until it is known.
CREATE INDEX blobs_without_sha256 ON blobs (created_ms, key) WHERE length(sha256) = 0;
