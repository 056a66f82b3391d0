-- Endpoints that are told of events. options is what their owner chose, as JSON; secrets are sealed by the master key.
-- sequence counts what each was told of, queued what waits for it. failed counts attempts since the last success, the
-- first of them at failing_since_ms; pauses those of the breaker in a row. One node sends for an endpoint: owner, until
-- lease_ms. What happened up to the event after_event, before it was made, is not for it.
CREATE TABLE webhooks (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    after_event BIGINT NOT NULL,
    url TEXT NOT NULL,
    options TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    disabled_reason TEXT,
    secret BLOB NOT NULL,
    previous_secret BLOB,
    previous_until_ms BIGINT,
    legacy_previous BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    queued BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    failing_since_ms BIGINT,
    pauses BIGINT NOT NULL,
    paused_until_ms BIGINT NOT NULL,
    last_success_ms BIGINT,
    last_error TEXT,
    owner TEXT,
    lease_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
-- What is sent, once for all endpoints that get the same.
CREATE TABLE webhook_bodies (
    seq BIGINT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX webhook_bodies_by_age ON webhook_bodies (created_ms);
-- One event for one endpoint. state is queued (from due_ms on), blocked (its script failed), delivered, failed, skipped
-- (too much waited already) or dropped. tries counts along the schedule, attempts all that were sent. What has the same
-- subject is sent in order where the endpoint wants that.
CREATE TABLE webhook_deliveries (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL,
    message TEXT NOT NULL,
    event TEXT NOT NULL,
    subject TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    body BIGINT NOT NULL,
    headers TEXT,
    state TEXT NOT NULL,
    due_ms BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    reason TEXT,
    occurred_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    ended_ms BIGINT
);
CREATE INDEX webhook_deliveries_of ON webhook_deliveries (endpoint, seq);
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (endpoint, seq) WHERE state IN ('queued', 'blocked');
CREATE INDEX webhook_deliveries_heads ON webhook_deliveries (endpoint, subject, seq) WHERE state IN ('queued', 'blocked');
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint, due_ms, seq) WHERE state = 'queued';
CREATE INDEX webhook_deliveries_by_body ON webhook_deliveries (body);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (ended_ms);
CREATE TABLE webhook_attempts (
    seq BIGINT NOT NULL PRIMARY KEY,
    delivery BIGINT NOT NULL,
    number BIGINT NOT NULL,
    begun_ms BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    status BIGINT,
    result TEXT NOT NULL,
    error TEXT,
    response TEXT
);
CREATE INDEX webhook_attempts_of ON webhook_attempts (delivery, seq);
CREATE INDEX webhook_attempts_by_age ON webhook_attempts (begun_ms);
-- Answers to requests that named themselves, so that a repeat gets the same; sealed, as one may show a secret.
CREATE TABLE webhook_replies (
    name TEXT NOT NULL PRIMARY KEY,
    request BLOB NOT NULL,
    reply BLOB,
    created_ms BIGINT NOT NULL
);
CREATE INDEX webhook_replies_by_age ON webhook_replies (created_ms);
