//! Mail, by SMTP with TLS.

use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::SmtpTransportBuilder;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport};
use lifeboat_core::secret::Secret;
use lifeboat_core::{Error, Kind, Result};

use super::{Delivery, in_one};
use crate::config::notify::{EmailConfig, MailTls, NotifyConfig};
use crate::postgres;
use crate::ui::units;

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    let config = delivery.config;
    let Some(email) = &config.email else {
        return Err(Error::new(Kind::Usage, "it has no server of mail"));
    };
    let mail = mail(email, delivery)?;
    let password = email.password.as_ref().map(postgres::fetch).transpose()?;
    let server = server(email, config, password.as_ref())?;
    let failed = |error: lettre::transport::smtp::Error| {
        let message = format!("{} does not take the mail", email.host);
        let error = Error::new(Kind::StoreUnavailable, message)
            .caused_by(without(&error, password.as_ref()));
        error.hint("it is tried again with the next run; `lifeboat notify test` tries it now")
    };
    // A server that answers byte by byte must not hold a run: each answer has a limit, so the
    // whole has one of its own, in a thread that is left behind when it is over.
    let (send, receive) = std::sync::mpsc::channel();
    let limit = Duration::from_millis(config.timeout_ms());
    std::thread::spawn(move || {
        let _ = send.send(server.send(&mail).map(drop));
    });
    match receive.recv_timeout(limit) {
        Ok(sent) => sent.map_err(failed),
        Err(_) => {
            let message =
                format!("{} did not take it within {} s", email.host, limit.as_secs_f64());
            Err(Error::new(Kind::StoreUnavailable, message).hint(
                "look at `host`, `port` and `tls`: \"implicit\" for 465, \"starttls\" for 587",
            ))
        }
    }
}

fn mail(email: &EmailConfig, delivery: &Delivery<'_>) -> Result<lettre::Message> {
    let failed =
        |error: String| Error::new(Kind::Usage, "the mail cannot be written").caused_by(error);
    let address =
        |text: &String| text.parse::<Mailbox>().map_err(|error| failed(format!("{text}: {error}")));
    let message = delivery.message;
    let mut mail = lettre::Message::builder()
        .from(address(&email.from)?)
        .subject(units::one_line(&message.title))
        .header(ContentType::TEXT_PLAIN)
        .date(std::time::UNIX_EPOCH + Duration::from_secs(message.at.as_second().max(0) as u64));
    for to in &email.to {
        mail = mail.to(address(to)?);
    }
    mail.body(format!("{}\n", message.whole())).map_err(|error| failed(error.to_string()))
}

/// What a server answers may repeat what it was sent.
fn without(error: &lettre::transport::smtp::Error, password: Option<&Secret>) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    if let Some(cause) = error.source().map(ToString::to_string)
        && !text.contains(&cause)
    {
        text = format!("{text}: {cause}");
    }
    match password.map(Secret::expose).filter(|password| !password.is_empty()) {
        Some(password) => text.replace(password, "***"),
        None => text,
    }
}

fn server(
    email: &EmailConfig,
    config: &NotifyConfig,
    password: Option<&Secret>,
) -> Result<SmtpTransport> {
    let tls = || -> Result<TlsParameters> {
        let failed = |error: Error| {
            Error::new(Kind::Usage, "TLS cannot be prepared").caused_by(in_one(&error))
        };
        let wrong = |error: lettre::transport::smtp::Error| {
            failed(Error::new(Kind::Usage, error.to_string()))
        };
        let mut tls = TlsParameters::builder(email.host.clone());
        if let Some(path) = &config.ca_certificate {
            let what = format!("cannot use the certificate {}", path.display());
            let pem =
                std::fs::read(path).map_err(|error| failed(Error::io(Kind::Usage, what, error)))?;
            tls = tls.add_root_certificate(Certificate::from_pem(&pem).map_err(wrong)?);
        }
        tls.build_rustls().map_err(wrong)
    };
    let (tls, port) = match email.tls.unwrap_or_default() {
        MailTls::Starttls => (Tls::Required(tls()?), 587),
        MailTls::Implicit => (Tls::Wrapper(tls()?), 465),
        MailTls::None => (Tls::None, 25),
    };
    let server: SmtpTransportBuilder = SmtpTransport::builder_dangerous(&email.host);
    let mut server = server
        .port(email.port.unwrap_or(port))
        .tls(tls)
        .timeout(Some(Duration::from_millis(config.timeout_ms())));
    if let (Some(user), Some(password)) = (&email.user, password) {
        server = server.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
    }
    Ok(server.build())
}
