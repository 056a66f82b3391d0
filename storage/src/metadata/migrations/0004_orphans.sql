-- Bytes in a store that no row names: since when they are known, and when they were last seen.
CREATE TABLE orphans (
    store TEXT NOT NULL,
    key BLOB NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    PRIMARY KEY (store, key)
);
