//! `user`: the meters that may connect. A running relay takes the change over by itself.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use super::{Ended, load};
use crate::users;

/// `user …`
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user, or give it another password. The password is asked for, or the first line of standard input.
    Add(OneUser),
    /// Remove a user.
    Remove(OneUser),
    /// The users' names.
    List(UsersFile),
}

/// Which user.
#[derive(Debug, Args)]
pub(super) struct OneUser {
    /// The user's name.
    name: String,
    #[command(flatten)]
    file: UsersFile,
}

/// Which file.
#[derive(Debug, Args)]
pub(super) struct UsersFile {
    /// The users file; by default the one of the configuration.
    #[arg(long)]
    users_file: Option<PathBuf>,
}

pub(super) fn user(config: &Path, command: &UserCommand) -> anyhow::Result<Ended> {
    let given = match command {
        UserCommand::Add(one) | UserCommand::Remove(one) => &one.file,
        UserCommand::List(file) => file,
    };
    let file = if let Some(file) = &given.users_file {
        file.clone()
    } else {
        let Some(loaded) = load(config) else {
            return Ok(Ended::NoConfig);
        };
        let configured = loaded.settings.listener.users_file;
        configured.context("mqtt.users_file is not set: set it, or use --users-file FILE")?
    };
    match command {
        UserCommand::Add(one) => {
            users::add(&file, &one.name, &password(&one.name)?)?;
            eprintln!("{} may connect ({})", one.name, file.display());
        }
        UserCommand::Remove(one) => {
            users::remove(&file, &one.name)?;
            eprintln!("{} may no longer connect ({})", one.name, file.display());
        }
        UserCommand::List(_) => {
            for name in users::list(&file)? {
                println!("{name}");
            }
        }
    }
    Ok(Ended::Done)
}

/// Asked for twice on a terminal, without an echo; else the first line of standard input.
fn password(name: &str) -> anyhow::Result<String> {
    let password = if std::io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        terminal.write_str(&format!("Password of {name}: "))?;
        let first = terminal.read_secure_line()?;
        terminal.write_str("Again: ")?;
        ensure!(
            first == terminal.read_secure_line()?,
            "the two passwords differ"
        );
        first
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    ensure!(!password.is_empty(), "the password is empty");
    Ok(password)
}
