//! Tests of [`super`].
#![allow(clippy::unwrap_used)]

use super::*;

fn places(folder: &Path) -> Places {
    let folder = folder.to_owned();
    Places::from_environment(
        move |name| match name {
            "HOME" => Some(folder.join("home")),
            "XDG_CONFIG_HOME" => Some(folder.join("config")),
            "XDG_STATE_HOME" => Some(PathBuf::from("relative/is/ignored")),
            _ => None,
        },
        false,
    )
}

#[test]
fn places_follow_the_environment() {
    let places = places(Path::new("/x"));
    assert_eq!(places.contexts, Path::new("/x/config/littoral/contexts.toml"));
    assert_eq!(places.last_socket, Path::new("/x/home/.local/state/littoral/last-socket"));
    assert_eq!(places.data, Path::new("/x/home/.local/share/littoral"));
}

#[test]
fn contexts_survive_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    assert_eq!(places.load().unwrap(), Contexts::default());
    let mut contexts = Contexts { current: Some("plant".to_owned()), ..Contexts::default() };
    contexts.contexts.insert("here".to_owned(), Entry::Unix { socket: PathBuf::from("/run/a.sock") });
    contexts.contexts.insert(
        "plant".to_owned(),
        Entry::Tls { address: "edge-1:7449".to_owned(), credentials: PathBuf::from("/root/plant"), node: None },
    );
    places.save(&contexts).unwrap();
    assert_eq!(places.load().unwrap(), contexts);
    assert_eq!(
        places.target(None, None).unwrap(),
        Target::Tls { address: "edge-1:7449".to_owned(), credentials: PathBuf::from("/root/plant"), node: None }
    );
    assert_eq!(places.target(None, Some("here")).unwrap(), Target::Unix(PathBuf::from("/run/a.sock")));
}

#[test]
fn an_unknown_context_names_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let mut contexts = Contexts::default();
    contexts.contexts.insert("here".to_owned(), Entry::Unix { socket: PathBuf::from("/run/a.sock") });
    places.save(&contexts).unwrap();
    let error = places.target(None, Some("there")).unwrap_err();
    assert_eq!(error.to_string(), "there is no context `there` (there is: here)");
    assert!(error.is::<Usage>());
}

#[test]
fn the_node_started_last_is_asked_while_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let socket = folder.path().join(SOCKET_NAME);
    places.record_socket(&socket).unwrap();
    let usual = Target::Unix(places.data.join(SOCKET_NAME));
    assert_ne!(places.target(None, None).unwrap(), Target::Unix(socket.clone()), "it does not run");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(places.target(None, None).unwrap(), Target::Unix(socket.clone()));
    assert_eq!(places.target(Some(folder.path()), None).unwrap(), Target::Unix(socket), "a data directory will do");
    let mut contexts = Contexts { current: Some("far".to_owned()), ..Contexts::default() };
    contexts.contexts.insert("far".to_owned(), Entry::Unix { socket: PathBuf::from("/run/far.sock") });
    places.save(&contexts).unwrap();
    let chosen = places.target(None, None).unwrap();
    assert_eq!(chosen, Target::Unix(PathBuf::from("/run/far.sock")), "what was chosen stays chosen");
    assert_ne!(chosen, usual);
    drop(listener);
}

#[test]
fn a_broken_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    replace(&places.contexts, b"current = 7").unwrap();
    assert!(places.load().unwrap_err().to_string().contains("contexts.toml is not a file of contexts"));
}
