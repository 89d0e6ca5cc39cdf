//! The tests' own PostgreSQL holds what it said it committed.

mod support;

use support::postgres::Postgres;

#[test]
fn it_starts_holds_and_comes_back_from_a_crash() {
    let Some(mut postgres) = Postgres::start() else {
        return;
    };
    postgres.psql("CREATE TABLE t (n int); INSERT INTO t VALUES (42)");
    postgres.restart_immediately();
    assert_eq!(postgres.psql("SELECT n FROM t"), "42");
    postgres.stop_immediately();
    assert_eq!(postgres.try_psql("SELECT 1"), None);
}
