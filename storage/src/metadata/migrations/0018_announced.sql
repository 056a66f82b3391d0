-- What is told of a box before its bytes come: another place that serves it, and the checksum that it must have.
ALTER TABLE architectures ADD COLUMN original_url TEXT;
ALTER TABLE architectures ADD COLUMN expected_type TEXT;
ALTER TABLE architectures ADD COLUMN expected_value TEXT;
