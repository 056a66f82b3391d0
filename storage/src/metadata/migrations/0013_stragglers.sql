-- Plugins that must miss no event and failed at one: each is told what comes behind its own place, while all others go
-- on. It is behind since since_ms; tries counts failures at the event behind the place, the first of them at
-- failing_since_ms; it is tried again from due_ms on.
CREATE TABLE stragglers (
    plugin TEXT NOT NULL PRIMARY KEY,
    place BIGINT NOT NULL,
    since_ms BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    failing_since_ms BIGINT,
    due_ms BIGINT NOT NULL,
    error TEXT
);
