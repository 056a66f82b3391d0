-- The plugins that led to an event, the first first, as a JSON array; NULL is none.
ALTER TABLE outbox ADD COLUMN causes TEXT;
