-- When each kind of upkeep last ran to its end, and where one that did not goes on.
CREATE TABLE upkeep (
    name TEXT NOT NULL PRIMARY KEY,
    ended_ms BIGINT NOT NULL,
    state TEXT
);
