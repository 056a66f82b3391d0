-- When a server that was ordered was first listed by its cloud, and when it was given up or found gone. What ended is kept,
-- so that its end is told once; its name is free.
ALTER TABLE orders ADD COLUMN seen_ms BIGINT;
ALTER TABLE orders ADD COLUMN ended_ms BIGINT;
