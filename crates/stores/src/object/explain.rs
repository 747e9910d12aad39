//! From an error of the library to one of ours, with what mends it.

use jiff::SignedDuration;
use lifeboat_core::{Error, Kind};

use super::refusal::Refusal;
use super::wire::Failure;
use super::{Provider, Shared};

/// A clock that is wrong by this much gets its requests refused.
const CLOCK_OFF_MIN: SignedDuration = SignedDuration::from_mins(4);

/// What was asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Read,
    Write,
    Delete,
    List,
    Look,
}

impl Asked {
    fn verb(self) -> &'static str {
        match self {
            Asked::Read => "cannot read",
            Asked::Write => "cannot write",
            Asked::Delete => "cannot delete",
            Asked::List => "cannot list",
            Asked::Look => "cannot look at",
        }
    }

    /// The right that S3 names so.
    fn right(self) -> &'static str {
        match self {
            Asked::Read | Asked::Look => "s3:GetObject",
            Asked::Write => "s3:PutObject",
            Asked::Delete => "s3:DeleteObject",
            Asked::List => "s3:ListBucket",
        }
    }
}

/// The server's answer behind an error, if there was one.
pub(super) fn refusal_of(error: &object_store::Error) -> Option<&Refusal> {
    cause_of(error)
}

fn cause_of<T: std::error::Error + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<T>() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

/// The error in our words: what failed, why, and what mends it.
pub(super) fn explain(
    shared: &Shared,
    asked: Asked,
    object: &str,
    error: object_store::Error,
) -> Error {
    let message = match object {
        "" => format!("{} {}", asked.verb(), shared.url),
        object => format!("{} {object} in {}", asked.verb(), shared.url),
    };
    if let Some(refusal) = refusal_of(&error) {
        let kind = match refusal.status {
            507 => Kind::NoSpace,
            _ if refusal.code.contains("Quota") => Kind::NoSpace,
            403 if asked == Asked::Delete && refusal.is_about_rights() => Kind::Denied,
            _ => Kind::StoreUnavailable,
        };
        let hint = hint(shared, asked, refusal);
        let told = Error::new(kind, message).caused_by(refusal.clone());
        return match hint {
            Some(hint) => told.hint(hint),
            None => told,
        };
    }
    if let object_store::Error::NotFound { .. } = error {
        return Error::new(Kind::NotCovered, format!("there is no {object} in {}", shared.url));
    }
    let told = Error::new(Kind::StoreUnavailable, message);
    match cause_of::<Failure>(&error) {
        Some(failure) => {
            let failure = failure.to_string();
            let hint = if failure.contains("credentials") {
                credentials_hint(shared.provider)
            } else if failure.contains("certificate") {
                "is it the server that is meant? if an authority of your own signed its \
                 certificate, name that one's as `ca_certificate`"
                    .to_owned()
            } else {
                format!("is {} reachable from here? see `endpoint`", shared.server)
            };
            told.caused_by(failure).hint(hint)
        }
        None => told.caused_by(innermost(&error)),
    }
}

/// The library's outer words repeat the address and the inner ones.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn credentials_hint(provider: Provider) -> String {
    match provider {
        Provider::S3 => {
            "no credentials were found: set `profile`, or `access_key_id` and \
                         `secret_access_key`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
        Provider::Google => {
            "no credentials were found: set `service_account`, or \
                             GOOGLE_APPLICATION_CREDENTIALS"
        }
        Provider::Azure => "no credentials were found: set `account_key` or `sas_token`",
    }
    .to_owned()
}

/// What mends it: the setting that is wrong, or the right that is missing.
fn hint(shared: &Shared, asked: Asked, refusal: &Refusal) -> Option<String> {
    let bucket = &shared.bucket;
    let other_region =
        refusal.region.as_deref().filter(|region| Some(*region) != shared.region.as_deref());
    let hint = match refusal.code.as_str() {
        "RequestTimeTooSkewed" | "RequestExpired" => clock_hint(shared, refusal),
        "NoSuchBucket" | "ContainerNotFound" => {
            format!("create the bucket {bucket}, or name another one in `url`")
        }
        "InvalidAccessKeyId" | "InvalidToken" | "UnrecognizedClientException" => {
            "the server does not know this key: see `access_key_id`, `profile` and the \
             variables AWS_*"
                .to_owned()
        }
        "SignatureDoesNotMatch" => "the secret key is not the one of this key id: see \
                                    `secret_access_key`, and `region`"
            .to_owned(),
        "ExpiredToken" | "TokenRefreshRequired" => {
            "the temporary credentials have ended: get new ones".to_owned()
        }
        "AuthenticationFailed" => "see `account` and `account_key` or `sas_token`; is the clock \
                                   of this host right?"
            .to_owned(),
        "InvalidStorageClass" => "this server does not have that `storage_class`".to_owned(),
        code if code.starts_with("KMS") => {
            "see `kms_key`: may these credentials use that key?".to_owned()
        }
        _ => match (other_region, refusal.status) {
            (Some(region), _) => format!("set region = \"{region}\": the bucket {bucket} is there"),
            // An answer to HEAD has no words. The server's clock tells this much.
            (None, 403) if clock_is_off(shared, refusal) => clock_hint(shared, refusal),
            (None, 301 | 307) => "the bucket is elsewhere: see `region` and `endpoint`".to_owned(),
            (None, 401 | 403) if shared.provider == Provider::S3 => {
                format!("these credentials need the right {} on {bucket}", asked.right())
            }
            (None, 401 | 403) => format!("these credentials have no such right on {bucket}"),
            (None, 507) => "make room there".to_owned(),
            (None, 500..=599 | 429) => "the server is overloaded or broken: try later".to_owned(),
            _ => return None,
        },
    };
    Some(hint)
}

fn off_by(shared: &Shared, refusal: &Refusal) -> Option<SignedDuration> {
    Some(shared.env.clock.now().duration_since(refusal.server_time?))
}

fn clock_is_off(shared: &Shared, refusal: &Refusal) -> bool {
    off_by(shared, refusal).is_some_and(|off| off.abs() >= CLOCK_OFF_MIN)
}

fn clock_hint(shared: &Shared, refusal: &Refusal) -> String {
    let off = off_by(shared, refusal).filter(|off| !off.is_zero());
    let by = off.map_or(String::new(), |off| {
        let direction = if off.is_negative() { "behind" } else { "ahead of" };
        let seconds = off.abs().as_secs();
        let length = match seconds {
            0..120 => format!("{seconds} s"),
            _ => format!("{} min", seconds / 60),
        };
        format!(" It is {length} {direction} the server's.")
    });
    format!("set this host's clock: timedatectl set-ntp true.{by}")
}
