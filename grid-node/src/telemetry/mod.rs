//! What the node tells about itself: metrics and logs.

mod logs;
mod metrics;

pub use logs::init as init_logs;
pub use metrics::{ModelMetrics, Prometheus, describe};
