//! SASL SCRAM (RFC 5802, RFC 7677): the user shows that the password is known, without saying it, and the broker that it knows it, too.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use littoral_model::manifest::KafkaSasl;
use ring::{digest, hmac, pbkdf2};

/// What is said before the first message, and again with the last one: no binding to the channel.
const GS2_HEADER: &str = "n,,";
/// How often a broker may want the password to be hashed: a second's work.
const ITERATIONS_MAX: u32 = 1 << 20;

/// An exchange of messages.
pub(super) struct Scram {
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
    digest: &'static digest::Algorithm,
    nonce: String,
    first: String,
}

/// What the broker must say last, by which it shows that it knows the password.
pub(super) struct Proof(String);

impl Scram {
    /// None for a mechanism that is another one.
    pub(super) fn of(sasl: KafkaSasl, user: &str, nonce: String) -> Option<Self> {
        let (hmac, pbkdf2, digest) = match sasl {
            KafkaSasl::Plain => return None,
            KafkaSasl::ScramSha256 => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
            KafkaSasl::ScramSha512 => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
        };
        let first = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
        Some(Self { hmac, pbkdf2, digest, nonce, first })
    }

    /// The first message.
    pub(super) fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first)
    }

    /// The answer to the broker's first message, and what it must say then.
    pub(super) fn last(&self, password: &str, said: &str) -> Result<(String, Proof), String> {
        let field = |name: char| said.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let wrong = || "what the broker says is no SCRAM".to_owned();
        let nonce = field('r').filter(|nonce| nonce.starts_with(&self.nonce)).ok_or_else(wrong)?;
        let salt = field('s').and_then(|salt| STANDARD.decode(salt).ok()).ok_or_else(wrong)?;
        let iterations = field('i').and_then(|count| count.parse::<NonZeroU32>().ok()).ok_or_else(wrong)?;
        if iterations.get() > ITERATIONS_MAX {
            return Err(format!("the broker wants the password to be hashed {iterations} times"));
        }
        let mut salted = vec![0; self.digest.output_len()];
        pbkdf2::derive(self.pbkdf2, iterations, &salt, password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hmac, &salted);
        let client = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(self.digest, client.as_ref());
        let unproven = format!("c={},r={nonce}", STANDARD.encode(GS2_HEADER));
        let all = format!("{},{said},{unproven}", self.first);
        let signature = hmac::sign(&hmac::Key::new(self.hmac, stored.as_ref()), all.as_bytes());
        let shown: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let server = hmac::Key::new(self.hmac, hmac::sign(&salted, b"Server Key").as_ref());
        let proof = STANDARD.encode(hmac::sign(&server, all.as_bytes()));
        Ok((format!("{unproven},p={}", STANDARD.encode(shown)), Proof(format!("v={proof}"))))
    }
}

impl Proof {
    /// Whether the broker has shown it.
    pub(super) fn is_shown(&self, said: &str) -> bool {
        said == self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_exchange_is_that_of_rfc_7677() {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let scram = Scram::of(KafkaSasl::ScramSha256, "user", nonce).unwrap();
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let said = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, proof) = scram.last("pencil", said).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(proof.is_shown("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") && !proof.is_shown("v=6rri"));
        assert!(scram.last("pencil", &said.replace("r=rO", "r=xx")).is_err());
        assert!(scram.last("pencil", &said.replace("4096", "4096000")).is_err());
    }
}
