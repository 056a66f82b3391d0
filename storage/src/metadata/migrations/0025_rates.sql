-- What each node is asked of the rates that all nodes share, told anew every second.
CREATE TABLE rate_demands (
    node TEXT NOT NULL PRIMARY KEY,
    demands TEXT NOT NULL,
    told_ms BIGINT NOT NULL
);
