//! A runtime whose models give their input back without copying it: what is left is what is measured.

use std::sync::Arc;

use grid_core::model::{Dim, Signature, StackAxes, TensorSpec};
use grid_core::tensor::{DataType, Tensor};
use grid_node::runtime::{
    Artifact, Instance, Model, ModelError, OpenError, OpenOptions, Outputs, Runtime, Stacked, TensorModel,
};

/// The runtime. Its models map `x` to `y`, FP32 of two dimensions, the second of which is this one.
#[derive(Clone, Debug)]
pub struct Identity(pub Dim);

impl Runtime for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn open(&self, _: &Artifact, _: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        Ok(Arc::new(IdentityModel::new(self.0)))
    }
}

/// Its model.
#[derive(Clone, Debug)]
pub struct IdentityModel(Signature);

impl IdentityModel {
    /// One whose second dimension is this one.
    pub fn new(columns: Dim) -> Self {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            shape: Some(vec![Dim::Dynamic, columns]),
        };
        Self(Signature {
            inputs: vec![spec("x")],
            outputs: vec![spec("y")],
        })
    }
}

impl Model for IdentityModel {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn instance(&self, _: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError> {
        Ok(Box::new(Stacked::new(IdentityRun, None)))
    }
}

struct IdentityRun;

impl TensorModel for IdentityRun {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        Ok(inputs.iter().cloned().collect())
    }
}
