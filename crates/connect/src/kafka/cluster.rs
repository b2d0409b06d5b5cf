//! The brokers of a cluster: who leads which partition, who coordinates a transaction or a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use littoral_model::manifest::{KafkaCluster, kafka};
use tokio::time::{Instant, sleep};

use super::link::{Client, Link};
use super::{PARTITIONS_MAX, checked, said};
use crate::{Machine, Trouble};

/// How long to wait before a broker that is not ready is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A cluster, with the brokers that have been talked to.
pub(super) struct Cluster {
    settings: KafkaCluster,
    client: Client,
    machine: Arc<dyn Machine>,
    pub(super) topic: TopicName,
    brokers: BTreeMap<i32, (String, u16)>,
    links: BTreeMap<i32, Link>,
    /// Who leads each partition.
    pub(super) leaders: BTreeMap<i32, i32>,
}

/// What there is a coordinator of, as the protocol numbers it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Coordinated {
    Group = 0,
    Transaction = 1,
}

impl Cluster {
    /// Connects to one of the brokers, and learns of the others.
    pub(super) async fn open(
        settings: &KafkaCluster,
        topic: &str,
        machine: &Arc<dyn Machine>,
    ) -> Result<Self, Trouble> {
        let client = Client::of(settings, &**machine).await?;
        let mut cluster = Self {
            settings: settings.clone(),
            client,
            machine: Arc::clone(machine),
            topic: TopicName(StrBytes::from_string(topic.to_owned())),
            brokers: BTreeMap::new(),
            links: BTreeMap::new(),
            leaders: BTreeMap::new(),
        };
        let mut last = Trouble("it has no brokers".to_owned());
        for broker in &settings.brokers {
            let Some((host, port)) = kafka::host_and_port(broker) else { continue };
            match cluster.dial(host, port).await {
                Ok(mut link) => {
                    cluster.learn(&mut link).await?;
                    return Ok(cluster);
                }
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    async fn dial(&mut self, host: &str, port: u16) -> Result<Link, Trouble> {
        Link::open(&self.settings, &self.client, &*self.machine, host, port).await
    }

    pub(super) fn patience(&self) -> Duration {
        self.settings.timeout.into()
    }

    /// Asks anew who leads which partition.
    pub(super) async fn refresh(&mut self) -> Result<(), Trouble> {
        let any = self.leaders.values().next().copied().unwrap_or_default();
        let mut link = match self.links.remove(&any) {
            Some(link) => link,
            None => self.connect(any).await?,
        };
        self.learn(&mut link).await?;
        self.links.insert(any, link);
        Ok(())
    }

    async fn learn(&mut self, link: &mut Link) -> Result<(), Trouble> {
        let wanted = MetadataRequestTopic::default().with_name(Some(self.topic.clone()));
        let request = MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        let answer = link.call(&request, 7).await?;
        let named = answer.brokers.iter().filter_map(|broker| {
            Some((broker.node_id.0, (broker.host.as_str().to_owned(), u16::try_from(broker.port).ok()?)))
        });
        self.brokers = named.collect();
        let topic = answer.topics.first().ok_or_else(|| link.trouble("it says nothing of the topic"))?;
        checked(self.topic.as_str(), topic.error_code)?;
        if topic.partitions.len() > PARTITIONS_MAX {
            return Err(Trouble(format!("{} has more than {PARTITIONS_MAX} partitions", self.topic.as_str())));
        }
        self.leaders.clear();
        for partition in &topic.partitions {
            if !self.brokers.contains_key(&partition.leader_id.0) {
                let (topic, index) = (self.topic.as_str(), partition.partition_index);
                return Err(Trouble(format!("partition {index} of {topic} has no leader now")));
            }
            self.leaders.insert(partition.partition_index, partition.leader_id.0);
        }
        if self.leaders.is_empty() {
            return Err(Trouble(format!("{} has no partitions", self.topic.as_str())));
        }
        Ok(())
    }

    async fn connect(&mut self, broker: i32) -> Result<Link, Trouble> {
        let (host, port) = self
            .brokers
            .get(&broker)
            .cloned()
            .ok_or_else(|| Trouble(format!("there is no broker {broker} any more")))?;
        self.dial(&host, port).await
    }

    /// A broker's connection.
    pub(super) async fn link(&mut self, broker: i32) -> Result<&mut Link, Trouble> {
        if !self.links.contains_key(&broker) {
            let link = self.connect(broker).await?;
            self.links.insert(broker, link);
        }
        self.links.get_mut(&broker).ok_or_else(|| Trouble("a connection is gone".to_owned()))
    }

    /// The connections of all brokers that there are.
    pub(super) fn links(&mut self) -> impl Iterator<Item = (i32, &mut Link)> {
        self.links.iter_mut().map(|(broker, link)| (*broker, link))
    }

    /// The broker that coordinates a group or the transactions of an id; it may have to be made one first.
    pub(super) async fn coordinator(&mut self, of: Coordinated, key: &str) -> Result<i32, Trouble> {
        let request =
            FindCoordinatorRequest::default().with_key(StrBytes::from_string(key.to_owned())).with_key_type(of as i8);
        let any = self.leaders.values().next().copied().unwrap_or_default();
        let deadline = Instant::now() + self.patience();
        loop {
            let answer = self.link(any).await?.call(&request, 2).await?;
            if is_over(answer.error_code, deadline).await {
                checked(&format!("who coordinates {key}"), answer.error_code)?;
                let (host, port) = (answer.host.as_str().to_owned(), u16::try_from(answer.port).unwrap_or_default());
                self.brokers.insert(answer.node_id.0, (host, port));
                return Ok(answer.node_id.0);
            }
        }
    }
}

/// Whether an answer is the last word: some say that it is to be asked again in a moment, which is waited for.
pub(super) async fn is_over(code: i16, deadline: Instant) -> bool {
    let is_passing = matches!(
        ResponseError::try_from_code(code),
        Some(
            ResponseError::CoordinatorLoadInProgress
                | ResponseError::CoordinatorNotAvailable
                | ResponseError::ConcurrentTransactions
                | ResponseError::UnstableOffsetCommit
        )
    );
    if !is_passing || Instant::now() >= deadline {
        return true;
    }
    sleep(PAUSE).await;
    false
}

/// The first error of many answers.
pub(super) fn all_checked(what: &str, codes: impl IntoIterator<Item = i16>) -> Result<(), Trouble> {
    let wrong = codes.into_iter().find_map(ResponseError::try_from_code);
    wrong.map_or(Ok(()), |error| Err(Trouble(format!("{what}: {}", said(error)))))
}
