-- Servers that were ordered by way of adapters, each under the name that its caller gave it. account is whose it is: a
-- hash of adapter and credentials under a key of this gateway. One without a server is under way until due_ms.
CREATE TABLE orders (
    seq BIGINT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL,
    name TEXT NOT NULL,
    region TEXT NOT NULL,
    size TEXT NOT NULL,
    server TEXT,
    due_ms BIGINT NOT NULL,
    ordered_ms BIGINT NOT NULL,
    ready_ms BIGINT
);
CREATE INDEX orders_by_name ON orders (account, name);
CREATE INDEX orders_by_server ON orders (account, server);
CREATE INDEX orders_by_age ON orders (ordered_ms);
