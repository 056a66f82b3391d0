-- ISO images: a name in an organization, and the blob that it holds.
CREATE TABLE isos (
    id BIGINT NOT NULL PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    account BIGINT NOT NULL,
    description TEXT,
    blob BLOB NOT NULL REFERENCES blobs (key),
    is_public BIGINT NOT NULL,
    downloads BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    UNIQUE (organization, folded)
);
CREATE INDEX isos_by_blob ON isos (blob);

-- What was brought from another server, by its name in full: what is gone here since is not brought again unasked.
CREATE TABLE imported (
    source TEXT NOT NULL,
    item TEXT NOT NULL,
    brought_ms BIGINT NOT NULL,
    PRIMARY KEY (source, item)
);
