-- Blobs are found by their digests alone, whoever holds them.
CREATE INDEX blobs_by_blake3 ON blobs (blake3);
CREATE INDEX blobs_by_sha256 ON blobs (sha256);
