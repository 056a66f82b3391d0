-- Uploads whose bytes are those of other uploads, one after the other.

-- Of how many an upload is joined; 0 for one that is sent.
ALTER TABLE uploads ADD COLUMN joins BIGINT NOT NULL DEFAULT 0;
CREATE INDEX uploads_by_joins ON uploads (id) WHERE state = 'open' AND joins > 0;

-- Which ones, in order, until it is joined or given up. blob is what a source became, held from here once
-- it is whole: it stays when the source itself goes.
CREATE TABLE joins (
    upload BLOB NOT NULL REFERENCES uploads (id),
    n BIGINT NOT NULL,
    source BLOB NOT NULL,
    blob BLOB REFERENCES blobs (key),
    PRIMARY KEY (upload, n)
);
CREATE INDEX joins_by_source ON joins (source) WHERE blob IS NULL;
CREATE INDEX joins_by_blob ON joins (blob) WHERE blob IS NOT NULL;
