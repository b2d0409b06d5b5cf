//! Makes a fabric, and takes a node into one: what happens once, before a node's first start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use littoral_mesh::admin::AdminCredential;
use littoral_mesh::identity::{Root, unix_now};
use littoral_mesh::join::join;
use littoral_mesh::tenant::TenantKey;
use littoral_mesh::token::Token;
use littoral_model::id::{TenantId, Tier};

use crate::data_dir::{CONTAINERS, DataDir, Facts};
use crate::settings::{InitOutcome, InitSettings, NodeSettings};
use crate::token_book::Book;

/// How long the token that comes with a new fabric is good for, in seconds.
const FIRST_TOKEN_TTL: u64 = 3_600;

/// How long before its end the tenant's key is replaced, in seconds: a node is started at least once in three months.
const KEY_RENEWED_BEFORE: u64 = 90 * 86_400;

/// Makes a fabric: its root of trust, its administrator's credential with the tenant's key, and its first node.
///
/// # Errors
/// When the data directory is in use, or cannot be written.
pub async fn init(settings: InitSettings) -> anyhow::Result<InitOutcome> {
    let data = DataDir::new(&settings.data);
    make_empty(data.path())?;
    let root = Root::create()?;
    root.save(&data.root())?;
    let addresses = addresses(&settings.listen, &settings.advertise);
    root.identity(&settings.name, &addresses)?.save(&data.identity())?;
    AdminCredential::create(&root)?.save(&data.admin_credentials())?;
    TenantKey::create(&root, &TenantId::default_tenant())?.save(&data.admin_credentials())?;
    let book = Book::create(data.tokens(), &settings.name, &settings.site)?;
    let facts = Facts {
        listen: settings.listen,
        advertise: settings.advertise,
        http: settings.http,
        join_listen: settings.join_listen,
        ..Facts::new(root.fabric()?, settings.name, settings.tier, settings.site, true)
    };
    data.write_facts(&facts)?;
    let (mut token, mut token_expires_s) = (None, None);
    // Where the kernel is to choose the port, only the running node can tell where to join.
    if let Some(listen) = facts.join_listen.filter(|listen| listen.port() != 0) {
        let granted =
            book.grant(root.hash()?, reachable(&[listen], &facts.advertise), unix_now(), FIRST_TOKEN_TTL).await?;
        token_expires_s = Some(granted.expires_unix);
        token = Some(granted.to_text());
    }
    Ok(InitOutcome {
        token,
        token_expires_s,
        root_fingerprint: facts.fabric,
        admin_credentials: data.admin_credentials(),
    })
}

/// Makes the tenant's key anew on the node that holds the root, where it is missing, as in a directory of an earlier
/// version, or ends soon. Who has moved the administrator's folder elsewhere wants no key here.
pub(crate) fn renew_tenant_key(data: &DataDir, root: &Root) -> anyhow::Result<()> {
    let folder = data.admin_credentials();
    if !folder.exists() {
        return Ok(());
    }
    let ends = if TenantKey::exists(&folder) { TenantKey::load(&folder)?.ends_unix()? } else { 0 };
    if ends < unix_now() + KEY_RENEWED_BEFORE {
        TenantKey::create(root, &TenantId::default_tenant())?.save(&folder)?;
        tracing::info!(folder = %folder.display(), "made a key with which the tenant's apps are signed");
    }
    Ok(())
}

/// Joins a fabric with a token, and keeps what this node was told.
pub(crate) async fn join_fabric(data: &DataDir, settings: &NodeSettings) -> anyhow::Result<Facts> {
    let Some(text) = &settings.join else {
        bail!(
            "{} is of no node yet; join a fabric with `littoral node --join TOKEN`, or make one with `littoral init`",
            data.path().display()
        );
    };
    let token: Token = text.trim().parse()?;
    let name = settings.name.clone().context("a node that joins needs a name: give --name")?;
    let tier = settings.tier.context("a node that joins needs a tier: give --tier device, edge, region or cloud")?;
    let site = settings.site.clone().context("a node that joins needs a site: give --site")?;
    make_empty(data.path())?;
    let addresses = addresses(&settings.listen, &settings.advertise);
    let (identity, admission) = join(&token, &name, tier, &site, &addresses).await?;
    identity.save(&data.identity())?;
    let connect = if settings.connect.is_empty() { admission.welcome.endpoints } else { settings.connect.clone() };
    let facts = Facts {
        connect,
        listen: default_listen(tier, &settings.listen),
        http: settings.http.or(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080))),
        ..Facts::new(admission.fabric, name, tier, site, admission.welcome.founder)
    };
    data.write_facts(&facts)?;
    Ok(facts)
}

/// Devices accept no links; others listen where they are told, by default on the usual port.
fn default_listen(tier: Tier, listen: &[SocketAddr]) -> Vec<SocketAddr> {
    if tier != Tier::Device && listen.is_empty() {
        return vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7447)];
    }
    listen.to_vec()
}

/// The addresses that go into a node's certificate.
fn addresses(listen: &[SocketAddr], advertise: &[String]) -> Vec<IpAddr> {
    let advertised = advertise.iter().filter_map(|address| address.parse::<SocketAddr>().ok());
    let mut addresses: Vec<IpAddr> = listen
        .iter()
        .copied()
        .chain(advertised)
        .map(|address| address.ip())
        .filter(|ip| !ip.is_unspecified())
        .collect();
    addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Under which `host:port` others reach a service that listens at these addresses, given the hosts under which they
/// reach this node.
pub(crate) fn reachable(listen: &[SocketAddr], advertise: &[String]) -> Vec<String> {
    let hosts: Vec<&str> =
        advertise.iter().map(|address| address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host)).collect();
    let mut found = Vec::new();
    for address in listen {
        if !hosts.is_empty() {
            found.extend(hosts.iter().map(|host| format!("{host}:{}", address.port())));
        } else if address.ip().is_unspecified() {
            let machine = rustix::system::uname();
            found.push(format!("{}:{}", machine.nodename().to_string_lossy(), address.port()));
        } else {
            found.push(address.to_string());
        }
    }
    found
}

/// Makes the folder for this user only; what is in it already must not be a node's. The folder of containers is there before:
/// the process that makes them is started before the node confines itself.
fn make_empty(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))?;
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    if entries.flatten().any(|entry| entry.file_name() != CONTAINERS) {
        bail!("{} is not empty; give another --data, or start the node that is in it without --join", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn others_reach_a_node_where_it_says() {
        let listen: Vec<SocketAddr> = vec!["127.0.0.1:7448".parse().unwrap()];
        assert_eq!(reachable(&listen, &[]), ["127.0.0.1:7448"]);
        assert_eq!(reachable(&listen, &["cloud.example.org:443".to_owned()]), ["cloud.example.org:7448"]);
    }

    #[test]
    fn the_tenants_key_is_made_where_it_is_missing_and_left_alone_where_it_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let (data, root) = (DataDir::new(folder.path()), Root::create().unwrap());
        renew_tenant_key(&data, &root).unwrap();
        assert!(!data.admin_credentials().exists(), "who moved it away wants no key");
        AdminCredential::create(&root).unwrap().save(&data.admin_credentials()).unwrap();
        renew_tenant_key(&data, &root).unwrap();
        let made = TenantKey::load(&data.admin_credentials()).unwrap();
        assert!(made.ends_unix().unwrap() > unix_now() + KEY_RENEWED_BEFORE);
        renew_tenant_key(&data, &root).unwrap();
        assert_eq!(TenantKey::load(&data.admin_credentials()).unwrap().key_pem, made.key_pem);
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        make_empty(folder.path()).unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "x").unwrap();
        let error = make_empty(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
    }
}
