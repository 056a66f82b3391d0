-- Deliveries whose script has not said what is sent.

-- Whether a delivery's body is as the event told it, and not what the endpoint's script makes of it.
ALTER TABLE webhook_deliveries ADD COLUMN raw BIGINT NOT NULL DEFAULT 0;
UPDATE webhook_deliveries SET raw = 1 WHERE state = 'blocked';

-- What waits for its script, counted for each endpoint.
CREATE INDEX webhook_deliveries_blocked ON webhook_deliveries (endpoint, seq) WHERE state = 'blocked';
