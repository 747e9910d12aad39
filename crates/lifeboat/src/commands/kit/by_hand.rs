//! The commands that restore a backup without this program.

use lifeboat_core::manifest::{Artifact, Manifest};

use crate::config::repository::RepositoryConfig;
use crate::ui::units::shell_word;

/// The command that fetches an object of a repository into the current folder.
pub(super) fn fetch(place: &RepositoryConfig, folder: &str, file: &str) -> String {
    let url = place.url.trim_end_matches('/');
    let object = format!("{folder}/{file}");
    let word = |text: &str| shell_word(text);
    match url.split_once("://") {
        Some(("s3", path)) => {
            let mut command = String::from("aws s3 cp");
            for (option, value) in [
                ("--endpoint-url", &place.endpoint),
                ("--region", &place.region),
                ("--profile", &place.profile),
            ] {
                if let Some(value) = value {
                    command.push_str(&format!(" {option} {}", word(value)));
                }
            }
            format!("{command} {} .", word(&format!("s3://{path}/{object}")))
        }
        Some(("gs", path)) => {
            format!("gcloud storage cp {} .", word(&format!("gs://{path}/{object}")))
        }
        Some(("az", path)) => {
            let (container, prefix) = path.split_once('/').unwrap_or((path, ""));
            let name = format!("{prefix}/{object}");
            let account = place.account.as_deref().unwrap_or("ACCOUNT");
            format!(
                "az storage blob download --account-name {} --container-name {} --name {} --file {}",
                word(account),
                word(container),
                word(name.trim_start_matches('/')),
                word(file)
            )
        }
        Some(("sftp", path)) => {
            let config = place.ssh_config.as_ref();
            let config = config.map(|file| format!(" -F {}", word(&file.to_string_lossy())));
            let (host, path) = path.split_once('/').unwrap_or((path, ""));
            let (host, port) = match host.rsplit_once(':') {
                Some((host, port)) => (host, format!(" -P {port}")),
                None => (host, String::new()),
            };
            let place = format!("{host}:/{path}/{object}");
            format!("sftp{}{port} {} .", config.unwrap_or_default(), word(&place))
        }
        _ => {
            let path = url.strip_prefix("file://").unwrap_or(url);
            let path = lifeboat_stores::path_of_url(path).unwrap_or_default();
            format!("cp {} .", word(&path.join(object).to_string_lossy()))
        }
    }
}

/// The commands that restore what an artifact holds into the current folder.
pub(super) fn restore(manifest: &Manifest, artifact: &Artifact) -> Vec<String> {
    let file = shell_word(&artifact.name);
    let sum = format!("{}  {}", artifact.stored_sha256, artifact.name);
    let mut commands = vec![format!("echo {} | sha256sum -c", shell_word(&sum))];
    let mut pipe = Vec::new();
    if artifact.sealed.is_some() {
        pipe.push(format!("age -d -i \"$KEY\" {file}"));
    }
    let unpack = match artifact.compression.as_str() {
        "zstd" => Some("zstd -dc"),
        "gzip" => Some("gunzip -c"),
        _ => None,
    };
    match (unpack, pipe.is_empty()) {
        (Some(unpack), true) => pipe.push(format!("{unpack} < {file}")),
        (Some(unpack), false) => pipe.push(unpack.to_owned()),
        (None, true) => pipe.push(format!("cat {file}")),
        (None, false) => {}
    }
    let pipe = pipe.join(" | ");
    let source = shell_word(&format!("{}.restored", manifest.source.name));
    let database = manifest.facts.get("database").and_then(|name| name.as_str());
    let database = shell_word(database.unwrap_or(&manifest.source.name));
    let dump = shell_word(&format!("{}.dump", manifest.source.name));
    let is_sql = artifact.name.contains(".sql");
    match artifact.role.as_str() {
        "database" => {
            commands.push(format!("{pipe} > {source}"));
            commands.push(format!("sqlite3 {source} 'PRAGMA integrity_check'"));
        }
        "globals" => commands.push(format!("{pipe} | psql -d postgres")),
        "dump" if is_sql => {
            commands.push(format!("createdb {database}"));
            commands.push(format!("{pipe} | psql -v ON_ERROR_STOP=1 -d {database}"));
        }
        "dump" => {
            commands.push(format!("{pipe} > {dump}"));
            commands.push(format!("createdb {database}"));
            commands.push(format!("pg_restore --exit-on-error -d {database} {dump}"));
        }
        "files" => commands.push(format!("{pipe} | tar -xpf -")),
        _ => commands.push(format!("{pipe} > {source}.{}", shell_word(&artifact.role))),
    }
    commands
}
