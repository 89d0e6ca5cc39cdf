-- What an account cannot speak of: ranges that are not in its digest although the hub may have them, and where the end of an
-- epoch that is over was damaged, from which sequence on. An account that was heard before says neither.
ALTER TABLE accounts
    ADD COLUMN unknown jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN tail_unknown_from bigint;
