-- The trace that an event belongs to, as its request told it; NULL is none.
ALTER TABLE outbox ADD COLUMN trace TEXT;
