-- Webhooks that came in for plugins, each under the id that its sender gave it. state is running (until due_ms, by
-- owner), waiting (to be run from due_ms on), done, or failed for good. One that its sender waits for has no head; what
-- is run later keeps its request until it is done. The row stays for a while, so that a repeat is known.
CREATE TABLE inbound (
    seq BIGINT NOT NULL PRIMARY KEY,
    plugin TEXT NOT NULL,
    hook TEXT NOT NULL,
    delivery TEXT NOT NULL,
    state TEXT NOT NULL,
    due_ms BIGINT NOT NULL,
    owner TEXT,
    tries BIGINT NOT NULL,
    received_ms BIGINT NOT NULL,
    head TEXT,
    body BLOB,
    error TEXT,
    UNIQUE (plugin, hook, delivery)
);
CREATE INDEX inbound_by_due ON inbound (due_ms) WHERE state IN ('running', 'waiting');
CREATE INDEX inbound_by_age ON inbound (received_ms);
