//! A certificate of our own making for the webhook, where nobody else makes one.
//!
//! It is kept in a Secret that all replicas share, and its CA is written into the webhook's configuration. A new one is
//! announced there, beside the old one, before it is used: no question of the API server is ever refused for it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tocsin_runtime::tls::Certificate;
use tokio::time::sleep;
use tracing::{info, warn};

/// Name of the Secret.
pub const SECRET: &str = "tocsin-webhook-certificate";
/// Annotation of the Secret: when a new certificate is made.
const RENEW: &str = "tocsin.dev/renew-after";
/// Annotation of the Secret: the names that the certificate is for.
const NAMES: &str = "tocsin.dev/names";
/// 365 days for which a certificate is good. It is renewed when a third of that is left, so that a cluster that slept
/// for months still has a good one.
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(365 * 24);
/// 10 minutes between looks: another replica may have renewed it, or somebody applied the configuration anew, without
/// its CA.
const LOOK: Duration = Duration::from_mins(10);
/// 2 seconds before the next attempt after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What a certificate is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    ca: String,
    cert: String,
    key: String,
}

/// Makes a CA that signs one certificate for `names`; the CA's key is forgotten.
fn make(names: &[String], now: Timestamp) -> anyhow::Result<Made> {
    let (from, until) = (now - SignedDuration::from_hours(1), now + GOOD_FOR);
    let date = |at: Timestamp| {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let part = |part: i8| u8::try_from(part).unwrap_or(1);
        rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    let params = |names: &[String], name: &str| {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date(from), date(until));
        Ok::<_, rcgen::Error>(params)
    };
    let mut ca = params(&[], "tocsin-webhook-ca")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let mut own = params(names, "tocsin-webhook")?;
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let cert = own.signed_by(&key, &issuer)?;
    Ok(Made { ca: ca_cert.pem(), cert: cert.pem(), key: key.serialize_pem() })
}

/// Keeps the certificate of a webhook.
pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<ValidatingWebhookConfiguration>,
    configuration: String,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("configuration", &self.configuration).finish_non_exhaustive()
    }
}

impl Keeper {
    /// For the configuration of this name, with the Secret in this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, configuration: String) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        Self { secrets, configurations: Api::all(client), configuration }
    }

    /// Waits until there is a certificate.
    pub async fn first(&self) -> Certificate {
        let mut told = None;
        loop {
            match self.look().await.and_then(|(cert, key)| Ok(Certificate::from_pem(&cert, &key)?))
            {
                Ok(certificate) => return certificate,
                Err(error) => {
                    let error = format!("{error:#}");
                    if told.as_ref() != Some(&error) {
                        warn!(error, "no certificate for the webhook yet");
                        told = Some(error);
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Keeps the certificate current, for ever.
    pub async fn run(self, certificate: Certificate) {
        let mut pause = LOOK;
        loop {
            sleep(pause).await;
            let looked = self.look().await;
            let replaced = looked.and_then(|(cert, key)| Ok(certificate.replace(&cert, &key)?));
            pause = match replaced {
                Ok(()) => LOOK,
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "the webhook's certificate could not be looked after"
                    );
                    Duration::from_mins(1)
                }
            };
        }
    }

    /// The certificate and its key, made or renewed if need be, with the CA in the configuration.
    async fn look(&self) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let configuration = self.configurations.get(&self.configuration).await;
        let configuration = configuration
            .with_context(|| format!("webhook configuration {}", self.configuration))?;
        let names = names(&configuration);
        let secret = self.secrets.get_opt(SECRET).await.context("the webhook's Secret")?;
        let now = Timestamp::now();
        let secret = match secret {
            Some(secret) if !is_due(&secret, &names, now) => secret,
            old => {
                let made = make(&names, now)?;
                // First the API server trusts both, then the new one is used.
                let before = old.as_ref().and_then(|old| text(old, "ca.crt")).unwrap_or_default();
                let bundle = format!("{}{}", made.ca, first_certificate(&before));
                self.trust(configuration.clone(), &bundle).await?;
                info!(names = names.join(","), "a new certificate for the webhook");
                self.keep(old, made, bundle, &names, now).await?
            }
        };
        let part = |key: &str| {
            text(&secret, key).with_context(|| format!("the webhook's Secret has no {key}"))
        };
        let (bundle, cert, key) = (part("ca.crt")?, part("tls.crt")?, part("tls.key")?);
        let configuration = self.configurations.get(&self.configuration).await?;
        self.trust(configuration, &bundle).await?;
        Ok((cert.into_bytes(), key.into_bytes()))
    }

    async fn keep(
        &self,
        old: Option<Secret>,
        made: Made,
        bundle: String,
        names: &[String],
        now: Timestamp,
    ) -> anyhow::Result<Secret> {
        let renew = now + GOOD_FOR * 2 / 3;
        let bytes = |text: String| ByteString(text.into_bytes());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                resource_version: old
                    .as_ref()
                    .and_then(|old| old.metadata.resource_version.clone()),
                annotations: Some(BTreeMap::from([
                    (RENEW.to_owned(), renew.to_string()),
                    (NAMES.to_owned(), names.join(",")),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([
                ("ca.crt".to_owned(), bytes(bundle)),
                ("tls.crt".to_owned(), bytes(made.cert)),
                ("tls.key".to_owned(), bytes(made.key)),
            ])),
            ..Secret::default()
        };
        let post = PostParams::default();
        let kept = match old {
            None => self.secrets.create(&post, &secret).await,
            Some(_) => self.secrets.replace(SECRET, &post, &secret).await,
        };
        match kept {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Another replica was faster: its certificate is as good.
                self.secrets.get(SECRET).await.context("the webhook's Secret")
            }
            kept => kept.context("keep the webhook's Secret"),
        }
    }

    /// Writes the CAs into the configuration, if they are not there.
    async fn trust(
        &self,
        mut configuration: ValidatingWebhookConfiguration,
        bundle: &str,
    ) -> anyhow::Result<()> {
        let mut changed = false;
        for webhook in configuration.webhooks.iter_mut().flatten() {
            let there = webhook.client_config.ca_bundle.as_ref().map_or(&[][..], |bytes| &bytes.0);
            if there != bundle.as_bytes() {
                webhook.client_config.ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
                changed = true;
            }
        }
        if changed {
            let post = PostParams::default();
            let replaced = self.configurations.replace(&self.configuration, &post, &configuration);
            replaced.await.context("write the CA into the webhook configuration")?;
            info!(
                configuration = self.configuration,
                "the API server trusts the webhook's certificate"
            );
        }
        Ok(())
    }
}

/// Whether a new certificate has to be made.
fn is_due(secret: &Secret, names: &[String], now: Timestamp) -> bool {
    let annotation = |key: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let renew = annotation(RENEW).and_then(|text| text.parse::<Timestamp>().ok());
    let same = annotation(NAMES).is_some_and(|text| *text == names.join(","));
    let whole = ["ca.crt", "tls.crt", "tls.key"].iter().all(|key| text(secret, key).is_some());
    !same || !whole || renew.is_none_or(|renew| now >= renew)
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

/// The newest of the certificates of a bundle: older ones are not in use any more.
fn first_certificate(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.find(END).map_or("", |at| bundle.get(..at + END.len()).unwrap_or_default())
}

/// The names by which the API server calls the webhooks of a configuration.
fn names(configuration: &ValidatingWebhookConfiguration) -> Vec<String> {
    let mut names = Vec::new();
    for webhook in configuration.webhooks.iter().flatten() {
        let config = &webhook.client_config;
        let service = config
            .service
            .as_ref()
            .map(|service| format!("{}.{}.svc", service.name, service.namespace));
        let url = config.url.as_ref().and_then(|url| url.parse::<hyper::Uri>().ok());
        let host =
            url.and_then(|url| url.host().map(|host| host.trim_matches(['[', ']']).to_owned()));
        for name in service.into_iter().chain(host) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_kept_and_renewed() {
        let now = Timestamp::now();
        let names = vec!["tocsin.x.svc".to_owned(), "127.0.0.1".to_owned()];
        let made = make(&names, now).unwrap();
        Certificate::from_pem(made.cert.as_bytes(), made.key.as_bytes()).unwrap();
        let secret = |renew: Timestamp| Secret {
            metadata: ObjectMeta {
                annotations: Some(BTreeMap::from([
                    (RENEW.to_owned(), renew.to_string()),
                    (NAMES.to_owned(), names.join(",")),
                ])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from(
                ["ca.crt", "tls.crt", "tls.key"]
                    .map(|key| (key.to_owned(), ByteString(b"x".to_vec()))),
            )),
            ..Secret::default()
        };
        let later = now + SignedDuration::from_hours(1);
        assert!(!is_due(&secret(later), &names, now));
        assert!(is_due(&secret(now), &names, now));
        assert!(is_due(&secret(later), &names[..1], now), "other names");
        assert!(is_due(&Secret::default(), &names, now));
        let older = make(&names, now).unwrap();
        assert_eq!(first_certificate(&format!("{}{}", made.ca, older.ca)), made.ca);
        assert_eq!(first_certificate(""), "");
    }

    #[test]
    fn names_are_those_that_the_api_server_calls() {
        let configuration: ValidatingWebhookConfiguration = serde_json::from_value(serde_json::json!({
            "webhooks": [
                { "name": "a", "clientConfig": { "service": { "name": "s", "namespace": "n" } }, "sideEffects": "None", "admissionReviewVersions": ["v1"] },
                { "name": "b", "clientConfig": { "url": "https://127.0.0.1:9443/x" }, "sideEffects": "None", "admissionReviewVersions": ["v1"] },
                { "name": "c", "clientConfig": { "url": "https://[::1]:9443/x" }, "sideEffects": "None", "admissionReviewVersions": ["v1"] },
            ],
        }))
        .unwrap();
        assert_eq!(names(&configuration), ["s.n.svc", "127.0.0.1", "::1"]);
    }
}
