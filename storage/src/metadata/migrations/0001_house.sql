-- Every table, empty or not. The same text runs on SQLite and PostgreSQL: columns are BIGINT, TEXT or
-- BLOB (PostgreSQL first makes a domain of that name), no column bears a reserved word, truth is 0 or 1,
-- times are milliseconds since 1970 and end in _ms, "folded" is the form under which a name is unique.

-- Where integer ids and sequence numbers come from, in the transaction that uses them.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

-- Who there is.
CREATE TABLE organizations (
    id BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    folded TEXT NOT NULL UNIQUE,
    email TEXT,
    description TEXT,
    org_code TEXT,
    access_mode TEXT NOT NULL,
    default_role TEXT NOT NULL,
    suspended BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE TABLE users (
    id BIGINT NOT NULL PRIMARY KEY,
    username TEXT NOT NULL,
    folded TEXT NOT NULL UNIQUE,
    name TEXT,
    email TEXT,
    password_hash TEXT,
    role TEXT NOT NULL,
    suspended BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE TABLE memberships (
    account BIGINT NOT NULL REFERENCES users (id),
    organization BIGINT NOT NULL REFERENCES organizations (id),
    role TEXT NOT NULL,
    joined_ms BIGINT NOT NULL,
    PRIMARY KEY (account, organization)
);
CREATE INDEX memberships_by_organization ON memberships (organization, account);

-- Credentials, found by hash.
CREATE TABLE tokens (
    id BIGINT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    account BIGINT NOT NULL REFERENCES users (id),
    organization BIGINT REFERENCES organizations (id),
    name TEXT,
    folded TEXT,
    description TEXT,
    scopes TEXT,
    expires_ms BIGINT,
    created_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX tokens_by_service_name ON tokens (folded) WHERE kind = 'service';
CREATE INDEX tokens_by_account ON tokens (account, kind);
CREATE INDEX tokens_by_organization ON tokens (organization);
CREATE INDEX tokens_by_end ON tokens (expires_ms);

-- The gateway's own keys, sealed.
CREATE TABLE keys (
    id BIGINT NOT NULL PRIMARY KEY,
    purpose TEXT NOT NULL,
    secret BLOB NOT NULL,
    retired_ms BIGINT,
    created_ms BIGINT NOT NULL
);
CREATE INDEX keys_by_purpose ON keys (purpose, id);

-- Names.
CREATE TABLE boxes (
    id BIGINT NOT NULL PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    account BIGINT NOT NULL,
    description TEXT,
    short_description TEXT,
    readme TEXT,
    github_repo TEXT,
    workflow_file TEXT,
    cicd_url TEXT,
    metadata TEXT,
    published BIGINT NOT NULL,
    is_public BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    UNIQUE (organization, folded)
);
CREATE INDEX boxes_by_account ON boxes (account);
CREATE TABLE versions (
    id BIGINT NOT NULL PRIMARY KEY,
    box BIGINT NOT NULL REFERENCES boxes (id),
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    status TEXT NOT NULL,
    description TEXT,
    release_notes TEXT,
    deprecated BIGINT NOT NULL,
    deprecation_reason TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    UNIQUE (box, folded)
);
CREATE TABLE providers (
    id BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL REFERENCES versions (id),
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    description TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    UNIQUE (version, folded)
);
CREATE TABLE architectures (
    id BIGINT NOT NULL PRIMARY KEY,
    provider BIGINT NOT NULL REFERENCES providers (id),
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    description TEXT,
    default_box BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    UNIQUE (provider, folded)
);

-- Committed bytes. refs counts the files and the uploads that hold a blob; at 0 due_ms says when it may
-- go.
CREATE TABLE blobs (
    key BLOB NOT NULL PRIMARY KEY,
    tenant BIGINT NOT NULL,
    store TEXT NOT NULL,
    length BIGINT NOT NULL,
    blake3 BLOB NOT NULL,
    sha256 BLOB NOT NULL,
    state TEXT NOT NULL,
    refs BIGINT NOT NULL,
    due_ms BIGINT,
    labels TEXT,
    created_ms BIGINT NOT NULL
);
CREATE INDEX blobs_by_digest ON blobs (tenant, blake3);
CREATE INDEX blobs_by_due ON blobs (due_ms) WHERE refs = 0;
-- One 32-byte subtree value per MiB, joined.
CREATE TABLE blob_trees (
    blob BLOB NOT NULL PRIMARY KEY REFERENCES blobs (key),
    cvs BLOB NOT NULL
);
CREATE TABLE files (
    id BIGINT NOT NULL PRIMARY KEY,
    architecture BIGINT NOT NULL UNIQUE REFERENCES architectures (id),
    blob BLOB NOT NULL REFERENCES blobs (key),
    downloads BIGINT NOT NULL,
    declared_type TEXT,
    declared_value TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX files_by_blob ON files (blob);
-- What a file was before it was replaced; found by digest until then. Holds no reference.
CREATE TABLE former_files (
    file BIGINT NOT NULL REFERENCES files (id),
    blob BLOB NOT NULL REFERENCES blobs (key),
    declared_type TEXT,
    declared_value TEXT,
    updated_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    PRIMARY KEY (file, blob)
);
CREATE INDEX former_files_by_blob ON former_files (blob);

-- Blobs on their way in. No reference to the organization: it may be deleted meanwhile. target_folded is
-- the form under which an open upload is found by its name; held is the blob that a finished upload
-- without a target holds as its one reference.
CREATE TABLE uploads (
    id BLOB NOT NULL PRIMARY KEY,
    account BIGINT NOT NULL,
    organization BIGINT NOT NULL,
    key BLOB NOT NULL UNIQUE,
    store TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    state TEXT NOT NULL,
    byte_offset BIGINT NOT NULL,
    length BIGINT,
    part_bytes BIGINT NOT NULL,
    target TEXT,
    target_folded TEXT,
    keep BIGINT NOT NULL,
    note TEXT,
    expected TEXT NOT NULL,
    held BLOB,
    hash_states BLOB,
    hook_state TEXT,
    tail_key BLOB,
    tail_length BIGINT,
    tail_crc BIGINT,
    s3_id TEXT,
    blake3 BLOB,
    sha256 BLOB,
    answer TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX uploads_by_state ON uploads (state, updated_ms);
CREATE INDEX uploads_by_account ON uploads (account, target_folded) WHERE state = 'open';
CREATE INDEX uploads_by_organization ON uploads (organization, id) WHERE state = 'open';
CREATE INDEX uploads_by_held ON uploads (held) WHERE held IS NOT NULL;
CREATE TABLE parts (
    upload BLOB NOT NULL REFERENCES uploads (id),
    k BIGINT NOT NULL,
    length BIGINT NOT NULL,
    etag TEXT,
    crc64 BLOB,
    cvs BLOB NOT NULL,
    PRIMARY KEY (upload, k)
);
-- Bytes that nobody names any more and that are to be removed from their store.
CREATE TABLE trash (
    key BLOB NOT NULL PRIMARY KEY,
    store TEXT NOT NULL,
    due_ms BIGINT NOT NULL
);
CREATE INDEX trash_by_due ON trash (due_ms);

-- What happened, in the order of commit.
CREATE TABLE outbox (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    data TEXT NOT NULL,
    depth BIGINT NOT NULL,
    occurred_ms BIGINT NOT NULL
);
CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    occurred_ms BIGINT NOT NULL
);
CREATE INDEX audit_by_time ON audit (occurred_ms);

-- Who does which background work, and until when nobody else should.
CREATE TABLE claims (
    name TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);
