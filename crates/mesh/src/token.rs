//! The one-time token that lets a node into a fabric, and what the issuing side remembers of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use littoral_model::id::NodeId;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::identity::{IdentityError, RootHash, hash};

/// What every token begins with; the number is its format's version.
pub const TOKEN_PREFIX: &str = "littoral-join-1.";
/// The longest token: some endpoints, a hash and a secret are far below.
const TOKEN_BYTES_MAX: usize = 4096;
/// The most addresses of the join service in one token.
const ENDPOINTS_MAX: usize = 16;

/// Lets one node in, once, until it expires. Whoever has it can join: treat it like a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Where the join service listens, `host:port`, tried in order.
    pub endpoints: Vec<String>,
    /// SHA-256 of the root's certificate: the joining node trusts no other.
    pub root_hash: RootHash,
    /// Its number at the issuing side.
    pub id: String,
    /// What the joining node proves that it has it with.
    pub secret: [u8; 32],
    /// When it expires, in seconds since 1970.
    pub expires_unix: u64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// A text that is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as tokens do.
    #[error(
        "this is not a join token: it must begin with `{TOKEN_PREFIX}`; copy the whole line that `littoral token create` printed"
    )]
    Prefix,
    /// A version of the format that this program does not read.
    #[error(
        "this is a join token of another version: use the `littoral` of the version that made it, or upgrade this one"
    )]
    Version,
    /// Cut off or changed.
    #[error("the join token is damaged ({0}): copy the whole line that `littoral token create` printed")]
    Damaged(String),
}

impl Token {
    /// Makes a token, and the record of it that the issuing side keeps.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn create(
        root_hash: RootHash,
        endpoints: Vec<String>,
        expires_unix: u64,
    ) -> Result<(Self, TokenRecord), IdentityError> {
        let random = SystemRandom::new();
        let mut id = [0u8; 9];
        let mut secret = [0u8; 32];
        random.fill(&mut id).map_err(|_| IdentityError::Random)?;
        random.fill(&mut secret).map_err(|_| IdentityError::Random)?;
        let token = Self { endpoints, root_hash, id: URL_SAFE_NO_PAD.encode(id), secret, expires_unix };
        let record =
            TokenRecord { id: token.id.clone(), secret_hash: token.secret_hash(), expires_unix, used_by: None };
        Ok((token, record))
    }

    /// Hash of the secret; the issuing side keeps only that.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let check = crate::identity::hash(&body);
        let mut bytes = body;
        bytes.extend(check.iter().take(4));
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(TOKEN_PREFIX) else {
            return Err(if text.starts_with("littoral-join-") { TokenError::Version } else { TokenError::Prefix });
        };
        if body.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Damaged("it is too long".to_owned()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|error| TokenError::Damaged(error.to_string()))?;
        let (body, check) =
            bytes.split_last_chunk::<4>().ok_or_else(|| TokenError::Damaged("it is too short".to_owned()))?;
        if !hash(body).starts_with(check) {
            return Err(TokenError::Damaged("its checksum does not match".to_owned()));
        }
        let token: Self = postcard::from_bytes(body).map_err(|error| TokenError::Damaged(error.to_string()))?;
        if token.endpoints.is_empty() || token.endpoints.len() > ENDPOINTS_MAX {
            return Err(TokenError::Damaged("it names no place to join".to_owned()));
        }
        Ok(token)
    }
}

/// What the issuing side keeps of a token: never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its number.
    pub id: String,
    /// Hash of its secret.
    pub secret_hash: [u8; 32],
    /// When it expires, in seconds since 1970.
    pub expires_unix: u64,
    /// Which node used it, and the hash of that node's certificate request.
    pub used_by: Option<(NodeId, [u8; 32])>,
}

/// A joining node, as far as a token is concerned.
#[derive(Clone, Debug)]
pub struct Redemption {
    /// The token's number.
    pub id: String,
    /// Hash of the secret that it showed.
    pub secret_hash: [u8; 32],
    /// Who wants in.
    pub node: NodeId,
    /// Hash of its certificate request.
    pub csr_hash: [u8; 32],
}

/// Why a node is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such token, or a wrong secret.
    #[error("the fabric knows no such join token; make a new one with `littoral token create`")]
    Unknown,
    /// Too late.
    #[error("the join token has expired; make a new one with `littoral token create`")]
    Expired,
    /// Another node joined with it.
    #[error(
        "the join token has been used by node {0}; each lets one node in: make a new one with `littoral token create`"
    )]
    Reused(String),
    /// The fabric has a node of that name.
    #[error("the fabric already has a node named {0}; choose another with --name")]
    NameTaken(String),
    /// The programs are too far apart.
    #[error("the fabric speaks protocol versions {min} to {max}, this node does not: upgrade the older of the two")]
    Protocol {
        /// The oldest it speaks.
        min: u8,
        /// The newest it speaks.
        max: u8,
    },
    /// The request makes no sense.
    #[error("the request to join is not valid: {0}")]
    Invalid(String),
    /// The join service failed.
    #[error("the node that lets others in failed: {0}; see its log, then try again")]
    Failed(String),
}

impl TokenRecord {
    /// Uses the token: decides, and on success notes by whom it was used. A node that lost the answer may ask again with
    /// the same request. The caller makes the change durable before it lets the node in.
    ///
    /// # Errors
    /// Why not.
    pub fn redeem(&mut self, redemption: &Redemption, now_unix: u64) -> Result<(), Refusal> {
        if self.id != redemption.id || !same(&self.secret_hash, &redemption.secret_hash) {
            return Err(Refusal::Unknown);
        }
        match &self.used_by {
            Some((node, csr)) if *node == redemption.node && *csr == redemption.csr_hash => return Ok(()),
            Some((node, _)) => return Err(Refusal::Reused(node.to_string())),
            None => {}
        }
        if now_unix >= self.expires_unix {
            return Err(Refusal::Expired);
        }
        self.used_by = Some((redemption.node.clone(), redemption.csr_hash));
        Ok(())
    }
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0u8, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn token() -> (Token, TokenRecord) {
        Token::create([7; 32], vec!["127.0.0.1:7000".to_owned()], 1000).unwrap()
    }

    fn by(token: &Token, node: &str, csr: u8) -> Redemption {
        let node = NodeId::new(node).unwrap();
        Redemption { id: token.id.clone(), secret_hash: token.secret_hash(), node, csr_hash: [csr; 32] }
    }

    #[test]
    fn a_token_survives_being_written_and_says_what_is_wrong_with_it() {
        let (token, _) = token();
        let text = token.to_text();
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert_eq!("hello".parse::<Token>(), Err(TokenError::Prefix));
        assert_eq!("littoral-join-9.abc".parse::<Token>(), Err(TokenError::Version));
        let cut = &text[..text.len() - 2];
        assert!(matches!(cut.parse::<Token>(), Err(TokenError::Damaged(_))));
    }

    #[test]
    fn a_token_lets_one_node_in_once_and_in_time() {
        let (token, mut record) = token();
        assert_eq!(record.redeem(&by(&token, "a", 1), 1000), Err(Refusal::Expired));
        let mut wrong = by(&token, "a", 1);
        wrong.secret_hash = [0; 32];
        assert_eq!(record.redeem(&wrong, 1), Err(Refusal::Unknown));
        assert_eq!(record.redeem(&by(&token, "a", 1), 999), Ok(()));
        assert_eq!(record.redeem(&by(&token, "a", 1), 5000), Ok(()), "the same request again, its answer was lost");
        assert_eq!(record.redeem(&by(&token, "a", 2), 999), Err(Refusal::Reused("a".to_owned())));
        assert_eq!(record.redeem(&by(&token, "b", 1), 999), Err(Refusal::Reused("a".to_owned())));
    }
}
