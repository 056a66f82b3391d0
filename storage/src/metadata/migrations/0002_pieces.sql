-- Uploads that arrive in pieces, in any order.

-- How such an upload is cut: how many pieces, bytes of each but the last (unknown until one of them
-- came), and how many are whole and durable.
ALTER TABLE uploads ADD COLUMN piece_count BIGINT;
ALTER TABLE uploads ADD COLUMN piece_bytes BIGINT;
ALTER TABLE uploads ADD COLUMN pieces_held BIGINT NOT NULL DEFAULT 0;

-- Pieces that are whole and durable, ahead of the committed offset or behind it; they stay until the
-- upload ends, so that the same piece sent again can be told from another. cvs holds one 32-byte subtree
-- value per MiB from the piece's start, joined.
CREATE TABLE pieces (
    upload BLOB NOT NULL REFERENCES uploads (id),
    k BIGINT NOT NULL,
    byte_start BIGINT NOT NULL,
    length BIGINT NOT NULL,
    cvs BLOB NOT NULL,
    PRIMARY KEY (upload, k)
);
