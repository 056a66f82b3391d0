-- Uploads that are whole are asked about before they become visible. gate is how that stands: asked,
-- held (asked again later), passed, quarantined or rejected; NULL is nobody asked. gate_due_ms is until
-- when whoever asks has the right to, or from when on a held one is asked again; hook_state tells why.
ALTER TABLE uploads ADD COLUMN gate TEXT;
ALTER TABLE uploads ADD COLUMN gate_due_ms BIGINT;
CREATE INDEX uploads_by_gate ON uploads (gate, gate_due_ms) WHERE state = 'completing';
