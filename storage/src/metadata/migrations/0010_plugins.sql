-- Plugins that were pushed to all nodes: which version each is to run, and the last versions to go back to.
CREATE TABLE plugins (
    name TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL,
    pushed_by TEXT NOT NULL,
    pushed_ms BIGINT NOT NULL
);
CREATE TABLE plugin_bundles (
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    bundle TEXT NOT NULL,
    pushed_ms BIGINT NOT NULL,
    PRIMARY KEY (name, hash)
);
