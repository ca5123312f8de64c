//! The products whose headers are understood: `DIALECTS`.

use crate::http::fields::{list, matches_any};

/// A product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Helicone.
    Helicone,
    /// Cloudflare's AI Gateway.
    Cloudflare,
    /// OpenRouter.
    OpenRouter,
    /// Portkey.
    Portkey,
    /// OpenPipe and Weights & Biases.
    OpenPipe,
    /// Braintrust.
    Braintrust,
    /// LiteLLM.
    LiteLlm,
}

/// A product's name in `DIALECTS`, its family of headers, and the hosts of its own service. A host that begins with a dot
/// stands for all below it.
struct Product {
    dialect: Dialect,
    name: &'static str,
    family: &'static [&'static str],
    hosts: &'static [&'static str],
}

const PRODUCTS: [Product; 7] = [
    Product { dialect: Dialect::Helicone, name: "helicone", family: &["helicone-*"], hosts: &[".helicone.ai"] },
    Product {
        dialect: Dialect::Cloudflare,
        name: "cloudflare",
        family: &["cf-aig-*", "cf-cache-ttl", "cf-skip-cache"],
        hosts: &["gateway.ai.cloudflare.com"],
    },
    Product {
        dialect: Dialect::OpenRouter,
        name: "openrouter",
        family: &["x-openrouter-*"],
        hosts: &["openrouter.ai", ".openrouter.ai"],
    },
    Product { dialect: Dialect::Portkey, name: "portkey", family: &["x-portkey-*"], hosts: &[".portkey.ai"] },
    Product {
        dialect: Dialect::OpenPipe,
        name: "openpipe",
        family: &["op-*", "wandb-*"],
        hosts: &[".openpipe.ai", ".wandb.ai"],
    },
    Product { dialect: Dialect::Braintrust, name: "braintrust", family: &["x-bt-*"], hosts: &[".braintrust.dev"] },
    Product { dialect: Dialect::LiteLlm, name: "litellm", family: &["x-litellm-*"], hosts: &[] },
];

/// A set of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialects(u8);

impl Dialects {
    /// What [`Dialects::read`] reads.
    pub const EXPECTED: &str = "none, or a comma-separated list of helicone, cloudflare, openrouter, portkey, openpipe, braintrust and litellm";

    /// All that need no change to a body.
    pub const DEFAULT: Dialects = Dialects(0b11_1111);

    /// Reads a list of names.
    pub fn read(text: &str) -> Option<Dialects> {
        let mut read = Dialects::default();
        if !text.eq_ignore_ascii_case("none") {
            for name in list(text) {
                read.insert(PRODUCTS.iter().find(|product| product.name.eq_ignore_ascii_case(&name))?.dialect);
            }
        }
        Some(read)
    }

    const fn bit(dialect: Dialect) -> u8 {
        1 << dialect as u8
    }

    /// Whether a product is in it.
    pub const fn contains(self, dialect: Dialect) -> bool {
        self.0 & Dialects::bit(dialect) != 0
    }

    /// Adds a product.
    pub const fn insert(&mut self, dialect: Dialect) {
        self.0 |= Dialects::bit(dialect);
    }

    /// Those that are understood in a request to this host: a product's own service gets its headers untouched.
    pub fn towards(self, host: &str) -> Dialects {
        let is_at = |of: &&str| if of.starts_with('.') { host.ends_with(*of) } else { host == *of };
        let others = self.products().filter(|product| !product.hosts.iter().any(is_at));
        Dialects(others.fold(0, |bits, product| bits | Dialects::bit(product.dialect)))
    }

    /// Whether a header belongs to the family of one of them.
    pub fn own(self, header: &str) -> Option<Dialect> {
        self.products().find(|product| matches_any(header, product.family)).map(|product| product.dialect)
    }

    fn products(self) -> impl Iterator<Item = &'static Product> {
        PRODUCTS.iter().filter(move |product| self.contains(product.dialect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(Dialects::read("none"), Some(Dialects::default()));
        let six = "helicone, cloudflare,openrouter,portkey,OpenPipe,braintrust";
        assert_eq!(Dialects::read(six), Some(Dialects::DEFAULT));
        assert!(Dialects::read("litellm").unwrap().contains(Dialect::LiteLlm));
        assert!(!Dialects::DEFAULT.contains(Dialect::LiteLlm));
        assert_eq!(Dialects::read("helicone,none"), None);
        assert_eq!(Dialects::read("heliconee"), None);
    }

    #[test]
    fn a_products_own_service_gets_its_headers() {
        for (host, header) in [
            ("oai.helicone.ai", "helicone-cache-enabled"),
            ("gateway.ai.cloudflare.com", "cf-aig-cache-ttl"),
            ("openrouter.ai", "x-openrouter-cache"),
            ("api.portkey.ai", "x-portkey-config"),
            ("api.openpipe.ai", "op-cache"),
            ("proxy.training.wandb.ai", "wandb-cache-mode"),
            ("api.braintrust.dev", "x-bt-use-cache"),
        ] {
            assert!(Dialects::DEFAULT.own(header).is_some(), "{header}");
            assert_eq!(Dialects::DEFAULT.towards(host).own(header), None, "{host}");
            assert!(Dialects::DEFAULT.towards("api.openai.com").own(header).is_some(), "{header}");
            assert!(Dialects::DEFAULT.towards(&format!("{host}.example.com")).own(header).is_some(), "{host}");
        }
        assert_eq!(Dialects::DEFAULT.own("openai-beta"), None);
    }
}
