-- What a relay's account cannot speak of: ranges, and from where on the end of an epoch is in doubt.

ALTER TABLE accounts ADD COLUMN unknown jsonb NOT NULL DEFAULT '[]';
ALTER TABLE accounts ADD COLUMN tail_unknown_from bigint;
