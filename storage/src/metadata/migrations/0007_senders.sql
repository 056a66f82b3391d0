-- An upload is sent by a person, or by one of the person's service accounts: its name, else NULL.
ALTER TABLE uploads ADD COLUMN service TEXT;
-- A target tells who began it. An upload without one goes on with the person.
UPDATE uploads SET service = (
    SELECT MIN(t.name) FROM tokens t
    WHERE t.kind = 'service' AND t.account = uploads.account
        AND REPLACE(uploads.target, '"actor":"' || t.name || '"', '') <> uploads.target)
WHERE target IS NOT NULL;
