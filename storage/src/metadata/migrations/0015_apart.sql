-- Pieces of an upload whose store takes nothing out of order.

-- Whether each piece is held as bytes of its own until the offset covers it.
ALTER TABLE uploads ADD COLUMN pieces_apart BIGINT NOT NULL DEFAULT 0;

-- The key of those bytes, as long as there are any.
ALTER TABLE pieces ADD COLUMN key BLOB;

-- Bytes that belong to an upload and are not under its key are found by theirs.
CREATE UNIQUE INDEX pieces_by_key ON pieces (key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX uploads_by_tail ON uploads (tail_key) WHERE tail_key IS NOT NULL;
