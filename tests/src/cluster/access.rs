//! Users of the API server and their rights: tokens, kubeconfig files, service accounts and RBAC.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control_plane::ControlPlane;
use super::scratch::token_of;
use crate::sync::lock;

/// The API group of roles.
const RBAC: &str = "rbac.authorization.k8s.io";

/// How long the API server may take until a new role has an effect: it reads its own roles by watching them.
const ROLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A service account that a test has made.
#[derive(Clone, Debug)]
pub struct Account {
    /// The name in RBAC and in the audit log: `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// Its token, as a pod would find it in a file.
    pub token: String,
    namespace: String,
    name: String,
}

/// A right for [`ControlPlane::grant`]: `verbs` on `resource` (`nodes`, `nodes/status`) of `group` (empty for the core).
pub fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..Default::default()
    }
}

impl ControlPlane {
    /// The token of `admin` (who may do everything), of `nobody` (who may do nothing), or of a service account by its
    /// user name.
    pub fn token(&self, user: &str) -> String {
        let account = || lock(self.tokens()).get(user).cloned();
        let token = token_of(user).map(str::to_owned).or_else(account);
        token.unwrap_or_else(|| panic!("there is no user {user}"))
    }

    /// A kubeconfig file of any user of [`Self::token`], for the environment's `KUBECONFIG`.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.kubeconfig_at(user, &self.url())
    }

    /// A kubeconfig file with another URL, of something that stands in front of the API server.
    pub fn kubeconfig_at(&self, user: &str, url: &str) -> PathBuf {
        let token = self.token(user);
        self.scratch().kubeconfig(user, url, Some(&self.ca_file()), Some(&token))
    }

    /// A client that is any user of [`Self::token`].
    pub fn client_of(&self, user: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(user)).expect("read a kubeconfig");
        let client = async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            Client::try_from(config.expect("use a kubeconfig"))
        };
        self.block_on(client).expect("make a client")
    }

    /// Makes a namespace, if there is none of this name. It cannot be deleted: no controller runs that would empty it.
    pub fn namespace(&self, name: &str) {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        let namespace = Namespace { metadata, ..Default::default() };
        self.create_if_absent(&Api::all(self.client()), &namespace);
    }

    /// Makes a service account, and its namespace if there is none. It may do nothing yet.
    pub fn service_account(&self, namespace: &str, name: &str) -> Account {
        self.namespace(namespace);
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        let account = ServiceAccount { metadata, ..Default::default() };
        let accounts = Api::namespaced(self.client(), namespace);
        self.create_if_absent(&accounts, &account);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let parameters = PostParams::default();
        let request = accounts.create_token_request(name, &parameters, &request);
        let answer = self.request("request a token", request);
        let token = answer.status.and_then(|status| status.token).expect("a token");
        let user = format!("system:serviceaccount:{namespace}:{name}");
        lock(self.tokens()).insert(user.clone(), token.clone());
        Account { user, token, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A service account that may do everything, whose requests the audit log tells from others.
    pub fn admin_account(&self, namespace: &str, name: &str) -> Account {
        let account = self.service_account(namespace, name);
        self.grant(&account, &[rule("*", "*", &["*"])]);
        account
    }

    /// Grants rights in all namespaces to a service account, by a role of its own; returns when they have an effect. A
    /// second call replaces nothing: use another account.
    pub fn grant(&self, account: &Account, rules: &[PolicyRule]) {
        let name = format!("e2e:{}:{}", account.namespace, account.name);
        let metadata = ObjectMeta { name: Some(name.clone()), ..Default::default() };
        let role = ClusterRole {
            metadata: metadata.clone(),
            rules: Some(rules.to_vec()),
            ..Default::default()
        };
        let binding = ClusterRoleBinding {
            metadata,
            role_ref: RoleRef {
                api_group: Some(RBAC.to_owned()),
                kind: "ClusterRole".to_owned(),
                name,
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: account.name.clone(),
                namespace: Some(account.namespace.clone()),
                ..Default::default()
            }]),
        };
        let parameters = PostParams::default();
        let api = Api::all(self.client());
        self.request("create a role", async { api.create(&parameters, &role).await });
        let api = Api::all(self.client());
        self.request("create a binding", async { api.create(&parameters, &binding).await });
        for rule in rules {
            let first = |list: &Option<Vec<String>>| {
                list.as_ref().and_then(|list| list.first().cloned()).unwrap_or_default()
            };
            for verb in &rule.verbs {
                self.wait_allowed(account, &first(&rule.api_groups), &first(&rule.resources), verb);
            }
        }
    }

    fn wait_allowed(&self, account: &Account, group: &str, resource: &str, verb: &str) {
        let deadline = Instant::now() + ROLE_TIMEOUT;
        while !self.is_allowed(account, group, resource, verb) {
            assert!(Instant::now() < deadline, "the role of {} has no effect", account.user);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the API server lets a service account do `verb` to `resource` of `group`: in all namespaces, or to
    /// events in the namespace `default`.
    pub fn is_allowed(&self, account: &Account, group: &str, resource: &str, verb: &str) -> bool {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (resource, None),
        };
        // The Events of a Node are in this namespace, and a Role may grant them there alone.
        let namespace = (resource == "events").then(|| "default".to_owned());
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            namespace,
            verb: Some(verb.to_owned()),
            ..Default::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(account.user.clone()),
            resource_attributes: Some(attributes),
            ..Default::default()
        };
        let review = SubjectAccessReview { spec, ..Default::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client());
        let parameters = PostParams::default();
        let request = async { reviews.create(&parameters, &review).await };
        let answer = self.request("review an access", request);
        answer.status.is_some_and(|status| status.allowed)
    }

    fn create_if_absent<K>(&self, api: &Api<K>, object: &K)
    where
        K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        match self.try_request(api.create(&PostParams::default(), object)) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => panic!("create {:?}: {error}", object.meta().name),
        }
    }
}
