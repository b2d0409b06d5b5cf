//! What `get sites` shows: the nodes of each site, and who decides there.

use std::collections::{BTreeMap, BTreeSet};

use littoral_mesh::Members;
use littoral_model::id::{NodeId, SiteId};

use crate::admin::types::{SiteStatus, VoterStatus};
use crate::report::{Group, Report};

/// The sites of all nodes that are alive or were, each with its keeper group as its own nodes tell of it.
pub(crate) fn sites<'a>(
    live: &Members,
    known: impl IntoIterator<Item = &'a SiteId>,
    reports: &[(NodeId, Report)],
) -> Vec<SiteStatus> {
    let mut sites: BTreeMap<&SiteId, Vec<&NodeId>> = known.into_iter().map(|site| (site, Vec::new())).collect();
    for digest in live.values() {
        sites.entry(&digest.site).or_default().push(&digest.node);
    }
    sites.into_iter().map(|(site, nodes)| site_status(live, site, &nodes, reports)).collect()
}

fn site_status(live: &Members, site: &SiteId, nodes: &[&NodeId], reports: &[(NodeId, Report)]) -> SiteStatus {
    let told = reports.iter().filter(|(node, _)| nodes.contains(&node));
    let told = told.filter_map(|(node, report)| Some((node, report.group.as_ref()?)));
    // Of what they say, the leader's word is the newest, and of several the one with the higher term leads.
    let newness = |(node, group): &(&NodeId, &Group)| {
        let status = &group.status;
        (status.term, status.leader.as_ref() == Some(*node), status.applied)
    };
    let group = told.max_by_key(newness).map(|(_, group)| group);
    let settled = group.is_some_and(|group| group.has_settled);
    let group = group.map(|group| &group.status);
    let leader = group.and_then(|group| group.leader.clone()).filter(|leader| live.contains_key(leader));
    let voters = group.map_or_else(BTreeSet::new, |group| group.voters.clone());
    let voters: Vec<VoterStatus> =
        voters.iter().map(|voter| VoterStatus { node: voter.to_string(), alive: live.contains_key(voter) }).collect();
    let dead: Vec<&str> = voters.iter().filter(|voter| !voter.alive).map(|voter| voter.node.as_str()).collect();
    let decides = leader.is_some() && dead.len() < voters.len().div_ceil(2);
    let reason = match group {
        None => Some("no node of it answers".to_owned()),
        Some(_) if !decides && !dead.is_empty() => Some(format!(
            "of {} voters {} {} missing: nothing gets a new owner here until a majority is back",
            voters.len(),
            dead.join(", "),
            if dead.len() == 1 { "is" } else { "are" },
        )),
        Some(_) if !decides => Some("it has no leader at the moment".to_owned()),
        Some(_) if !dead.is_empty() => {
            Some(format!("{} is missing and votes no more until it is back", dead.join(", ")))
        }
        Some(_) if !settled => Some("its voters are being replaced".to_owned()),
        Some(_) => None,
    };
    SiteStatus {
        name: site.to_string(),
        nodes: nodes.iter().map(ToString::to_string).collect(),
        leader: leader.map(|leader| leader.to_string()),
        voters,
        decides,
        settled,
        reasons: reason.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::Arc;

    use littoral_store::consensus;

    use super::*;
    use crate::spec::tests::digest;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn report(leader: Option<&str>, term: u64, voters: &[&str]) -> Report {
        let voters = voters.iter().map(|name| node(name)).collect();
        let (leader, learners) = (leader.map(node), BTreeSet::new());
        let status = consensus::Status { leader, term, voters, learners, applied: term };
        Report { group: Some(Group { status, has_settled: term != 7 }), ..Report::default() }
    }

    /// The sites as three live nodes of a hall and one of a cloud are heard of.
    fn seen(reports: &[(NodeId, Report)]) -> Vec<SiteStatus> {
        let members = [("e1", "hall"), ("e2", "hall"), ("c1", "cloud")].map(|(name, site)| digest(name, site));
        let live = Members::from(members.map(|digest| (digest.node.clone(), Arc::new(digest))));
        let gone = SiteId::new("barn").unwrap();
        sites(&live, [&gone], reports)
    }

    #[test]
    fn the_newest_word_counts_and_only_that_of_the_sites_own_nodes() {
        let reports = [
            (node("e1"), report(Some("e3"), 4, &["e1", "e2", "e3"])),
            (node("e2"), report(Some("e2"), 5, &["e1", "e2", "c1"])),
            (node("c1"), report(Some("c1"), 9, &["c1"])),
        ];
        let sites = seen(&reports);
        let names: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["barn", "cloud", "hall"]);
        let hall = &sites[2];
        assert_eq!((hall.leader.as_deref(), hall.decides, hall.reasons.len()), (Some("e2"), true, 0));
        assert_eq!(hall.voters.iter().map(|voter| voter.node.as_str()).collect::<Vec<_>>(), ["c1", "e1", "e2"]);
        assert!(!sites[0].decides && sites[0].reasons == ["no node of it answers"]);
    }

    #[test]
    fn a_site_without_a_majority_says_who_is_missing() {
        let one_lost = seen(&[(node("e1"), report(Some("e1"), 1, &["e1", "e2", "e3"]))]).remove(2);
        assert!(one_lost.decides && one_lost.reasons[0].contains("e3"), "{one_lost:?}");
        let two_lost = seen(&[(node("e1"), report(Some("e1"), 1, &["e1", "e3", "e4"]))]).remove(2);
        assert!(!two_lost.decides && two_lost.reasons[0].contains("e3, e4 are missing"), "{two_lost:?}");
        let changing = seen(&[(node("e1"), report(Some("e1"), 7, &["c1", "e1", "e2"]))]).remove(2);
        assert!(
            changing.decides && !changing.settled && changing.reasons[0].contains("being replaced"),
            "{changing:?}"
        );
        let led_by_the_dead = seen(&[(node("e1"), report(Some("e3"), 1, &["e1", "e2", "e3"]))]).remove(2);
        assert!(!led_by_the_dead.decides && led_by_the_dead.leader.is_none());
    }
}
