"""The official Triton HTTP client, unmodified, against a running node that serves the quickstart's models.

    python tests/conformance/triton_http.py --url 127.0.0.1:8000
"""

import argparse
import asyncio
import json
import sys
import time

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from checks import MODELS, Checks, Failed, Sample, must, must_be_close, must_equal, must_name, wait_until

ALWAYS = ["credit_risk", "breast_cancer", "digits"]
FOREST = "credit_forest"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def array(tensor, rows=None):
    values = np.array(tensor["data"], dtype=triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])
    return values if rows is None else values[:rows]


def inputs_of(sample, binary=True, rows=None):
    inputs = []
    for tensor in sample.inputs:
        values = array(tensor, rows)
        input_ = triton.InferInput(tensor["name"], list(values.shape), tensor["datatype"])
        inputs.append(input_.set_data_from_numpy(values, binary_data=binary))
    return inputs


def outputs_of(sample, binary):
    return [triton.InferRequestedOutput(output["name"], binary_data=binary) for output in sample.expected["outputs"]]


def must_be_right(sample, result):
    outputs = {}
    for output in result.get_response()["outputs"]:
        values = result.as_numpy(output["name"])
        outputs[output["name"]] = (output["datatype"], output["shape"], values.flatten().tolist())
    sample.must_match(outputs)


def refused(call, *arguments, statuses, words=(), **options):
    """The call raises the client's own exception, with one of the statuses and a message that names these words."""
    begin = time.monotonic()
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        must(error.status() in statuses, f"status {error.status()} is none of {statuses}: {error.message()}")
        decoding = "an exception occurred in the client while decoding"
        must(not error.message().startswith(decoding), f"the body is not {{\"error\": ...}}: {error.debug_details()}")
        must(time.monotonic() - begin < 5.0, "refusing took more than 5 s")
        must_name(error.message(), words)
        return error
    raise Failed("the node took it, and should have refused it")


class Conformance:
    """The checks, in the order in which they run: each method `check_...` is one."""

    def __init__(self, url, models):
        self.url = url
        self.client = triton.InferenceServerClient(url, network_timeout=15.0, connection_timeout=5.0)
        self.samples = {model: Sample(model, models) for model in [*ALWAYS, FOREST]}
        self.served = list(ALWAYS)
        self.credit = self.samples["credit_risk"]
        self.digits = self.samples["digits"]

    def infer(self, sample, **options):
        inputs = options.pop("inputs", None) or inputs_of(sample)
        return self.client.infer(sample.model, inputs, **options)

    # Health and metadata.

    def check_server_is_live(self):
        must(self.client.is_server_live(), "not live")

    def check_server_is_ready(self):
        must(self.client.is_server_ready(), "not ready")

    def check_models_are_ready_with_and_without_version(self):
        for model in self.served:
            must(self.client.is_model_ready(model), f"{model} is not ready")
            must(self.client.is_model_ready(model, "1"), f"{model} version 1 is not ready")

    def check_an_unknown_model_or_version_is_not_ready(self):
        must(not self.client.is_model_ready("no_such_model"), "no_such_model is ready")
        must(not self.client.is_model_ready("credit_risk", "99"), "version 99 is ready")

    def check_server_metadata(self):
        metadata = self.client.get_server_metadata()
        for key in ["name", "version"]:
            must(isinstance(metadata.get(key), str) and metadata[key], f"no text `{key}` in {metadata}")
        missing = [name for name in EXTENSIONS if name not in metadata["extensions"]]
        must(not missing, f"extensions not advertised: {missing}")

    def check_an_extension_is_advertised_only_where_it_works(self):
        advertised = self.client.get_server_metadata()["extensions"]
        probes = {
            "trace": self.client.get_trace_settings,
            "logging": self.client.get_log_settings,
            "system_shared_memory": self.client.get_system_shared_memory_status,
            "cuda_shared_memory": self.client.get_cuda_shared_memory_status,
        }
        for name, probe in probes.items():
            if name in advertised:
                probe()
            else:
                refused(probe, statuses=["400", "404", "405", "501"])

    def check_model_metadata(self):
        for model in self.served:
            for version in ["", "1"]:
                self.must_describe(self.samples[model], self.client.get_model_metadata(model, version))

    def must_describe(self, sample, metadata):
        must_equal(metadata["name"], sample.model, "name")
        must("1" in metadata["versions"], f"versions are texts, and \"1\" is one of them: {metadata['versions']}")
        must(isinstance(metadata["platform"], str) and metadata["platform"], "no text `platform`")
        for kind, tensors in [("inputs", sample.inputs), ("outputs", sample.expected["outputs"])]:
            described = {tensor["name"]: tensor for tensor in metadata[kind]}
            must_equal(sorted(described), sorted(tensor["name"] for tensor in tensors), kind)
            for tensor in tensors:
                description = described[tensor["name"]]
                must_equal(description["datatype"], tensor["datatype"], f"datatype of {tensor['name']}")
                shape = description["shape"]
                must_equal(len(shape), len(tensor["shape"]), f"dimensions of {tensor['name']}")
                fits = all(size in (-1, real) for size, real in zip(shape, tensor["shape"]))
                must(fits, f"shape of {tensor['name']}: {shape} does not fit {tensor['shape']}")

    def check_model_config(self):
        for model in self.served:
            sample = self.samples[model]
            for version in ["", "1"]:
                config = self.client.get_model_config(model, version)
                must_equal(config["name"], model, "name")
                must(isinstance(config["max_batch_size"], int), "`max_batch_size` is no integer")
                must(config.get("platform") or config.get("backend"), "neither `platform` nor `backend`")
                must_equal([i["name"] for i in config["input"]], [i["name"] for i in sample.inputs], "input")
                names = [output["name"] for output in sample.expected["outputs"]]
                must_equal(sorted(o["name"] for o in config["output"]), sorted(names), "output")
                for tensor in [*config["input"], *config["output"]]:
                    must(tensor["data_type"].startswith("TYPE_"), f"data_type {tensor['data_type']}")
                    must(isinstance(tensor["dims"], list), "`dims` is no list")
                # With batching the first dimension is not in `dims`.
                expected = len(sample.inputs[0]["shape"]) - (1 if config["max_batch_size"] > 0 else 0)
                must_equal(len(config["input"][0]["dims"]), expected, "dimensions in `dims`")

    def check_metadata_of_an_unknown_model_is_refused(self):
        client = self.client
        for call in [client.get_model_metadata, client.get_model_config, client.get_inference_statistics]:
            refused(call, "no_such_model", statuses=["404"], words=["no_such_model"])
            refused(call, "credit_risk", "99", statuses=["404"], words=["credit_risk", "99"])

    # Inference.

    def check_infer_binary_in_binary_out(self):
        self.infer_all(binary_in=True, binary_out=True)

    def check_infer_binary_in_json_out(self):
        self.infer_all(binary_in=True, binary_out=False)

    def check_infer_json_in_binary_out(self):
        self.infer_all(binary_in=False, binary_out=True)

    def check_infer_json_in_json_out(self):
        self.infer_all(binary_in=False, binary_out=False)

    def infer_all(self, binary_in, binary_out):
        for model in self.served:
            sample = self.samples[model]
            inputs, outputs = inputs_of(sample, binary_in), outputs_of(sample, binary_out)
            result = self.client.infer(model, inputs, outputs=outputs)
            must_be_right(sample, result)
            for output in result.get_response()["outputs"]:
                is_binary = "binary_data_size" in output.get("parameters", {})
                must_equal(is_binary, binary_out, f"{model}: output {output['name']} is binary")
                must_equal("data" in output, not binary_out, f"{model}: output {output['name']} has `data`")

    def check_infer_binary_and_json_outputs_in_one_response(self):
        outputs = [
            triton.InferRequestedOutput("label", binary_data=True),
            triton.InferRequestedOutput("probability", binary_data=False),
        ]
        result = self.infer(self.credit, outputs=outputs)
        must_be_right(self.credit, result)
        must("data" in result.get_output("probability"), "probability is not JSON")
        must("data" not in result.get_output("label"), "label is not binary")

    def check_infer_without_requested_outputs_returns_all_as_binary(self):
        for model in self.served:
            result = self.infer(self.samples[model])
            must_be_right(self.samples[model], result)
            for output in result.get_response()["outputs"]:
                must("binary_data_size" in output.get("parameters", {}), f"output {output['name']} is not binary")

    def check_infer_one_row_is_the_first_row_of_two(self):
        for model in self.served:
            sample = self.samples[model]
            result = self.client.infer(model, inputs_of(sample, rows=1))
            for output in sample.expected["outputs"]:
                expected = array(output, 1).flatten().tolist()
                must_be_close(output["name"], result.as_numpy(output["name"]).flatten().tolist(), expected)

    def check_infer_many_rows(self):
        rows = 24
        values = np.tile(array(self.credit.inputs[0]), (rows // self.credit.rows, 1))
        input_ = triton.InferInput("features", list(values.shape), "FP32").set_data_from_numpy(values)
        result = self.client.infer("credit_risk", [input_])
        expected = array(self.credit.expected["outputs"][0]).flatten().tolist() * (rows // self.credit.rows)
        must_be_close("probability", result.as_numpy("probability").flatten().tolist(), expected)

    def check_infer_a_version(self):
        result = self.infer(self.credit, model_version="1")
        must_be_right(self.credit, result)
        must_equal(result.get_response()["model_name"], "credit_risk", "model_name")
        must_equal(result.get_response()["model_version"], "1", "model_version")

    def check_infer_requested_output_only(self):
        for name in ["label", "probability"]:
            result = self.infer(self.credit, outputs=[triton.InferRequestedOutput(name)])
            must_equal([output["name"] for output in result.get_response()["outputs"]], [name], "outputs")

    def check_infer_returns_the_request_id(self):
        for request_id in ["a-request-id", 'with "quotes" and \u00fc\u4e2d\U0001f600']:
            result = self.infer(self.credit, request_id=request_id)
            must_equal(result.get_response()["id"], request_id, "id")

    def check_infer_with_timeout_and_priority(self):
        for priority in [1, 2]:
            must_be_right(self.credit, self.infer(self.credit, timeout=5_000_000, priority=priority))

    def check_infer_with_a_parameter_of_the_users_own(self):
        must_be_right(self.credit, self.infer(self.credit, parameters={"customer": "somebody", "trial": True, "n": 7}))

    def check_infer_in_parallel_on_eight_connections(self):
        client = triton.InferenceServerClient(self.url, concurrency=8, network_timeout=15.0)
        samples = [self.samples[self.served[index % len(self.served)]] for index in range(64)]
        calls = [client.async_infer(s.model, inputs_of(s), request_id=str(n)) for n, s in enumerate(samples)]
        for number, (sample, call) in enumerate(zip(samples, calls)):
            result = call.get_result(timeout=15)
            must_be_right(sample, result)
            must_equal(result.get_response()["id"], str(number), "id")
        client.close()

    def check_infer_with_the_asyncio_client(self):
        async def infer():
            async with triton_aio.InferenceServerClient(self.url) as client:
                must(await client.is_server_ready(), "not ready")
                calls = [client.infer(model, inputs_of(self.samples[model])) for model in self.served]
                return await asyncio.wait_for(asyncio.gather(*calls), 15)

        for model, result in zip(self.served, asyncio.run(infer())):
            must_be_right(self.samples[model], result)

    def check_infer_asking_for_a_compressed_response(self):
        for algorithm in ["gzip", "deflate"]:
            for binary in [True, False]:
                result = self.infer(
                    self.credit, outputs=outputs_of(self.credit, binary), response_compression_algorithm=algorithm
                )
                must_be_right(self.credit, result)

    def check_a_compressed_request_is_answered_or_clearly_refused(self):
        for algorithm in ["gzip", "deflate"]:
            for binary in [True, False]:
                inputs = inputs_of(self.credit, binary)
                try:
                    result = self.infer(self.credit, inputs=inputs, request_compression_algorithm=algorithm)
                except InferenceServerException as error:
                    must_equal(error.status(), "415", f"status of {error.message()}")
                    must_name(error.message(), [algorithm])
                else:
                    must_be_right(self.credit, result)

    def check_classification_where_it_is_advertised(self):
        if "classification" not in self.client.get_server_metadata()["extensions"]:
            return
        rows = array(self.credit.expected["outputs"][0]).tolist()
        for binary in [True, False]:
            outputs = [triton.InferRequestedOutput("probability", binary_data=binary, class_count=1)]
            result = self.infer(self.credit, outputs=outputs)
            must_equal(result.get_output("probability")["datatype"], "BYTES", "datatype")
            best = result.as_numpy("probability")
            must_equal(list(best.shape), [len(rows), 1], "shape")
            for row, text in zip(rows, best.flatten().tolist()):
                value, index = (text.decode() if isinstance(text, bytes) else text).split(":")[:2]
                must_equal(int(index), row.index(max(row)), "the best class")
                must_be_close("its value", [float(value)], [max(row)])

    def check_what_the_node_cannot_do_is_refused_and_not_left_out(self):
        advertised = self.client.get_server_metadata()["extensions"]
        if "classification" not in advertised:
            outputs = [triton.InferRequestedOutput("probability", class_count=2)]
            refused(self.infer, self.credit, outputs=outputs, statuses=["400", "501"], words=["classification"])
        if "system_shared_memory" not in advertised:
            input_ = triton.InferInput("features", [2, 54], "FP32")
            input_.set_shared_memory("region", 432)
            refused(self.client.infer, "credit_risk", [input_], statuses=["400", "501"], words=["features"])
            outputs = [triton.InferRequestedOutput("probability")]
            outputs[0].set_shared_memory("region", 16)
            refused(self.infer, self.credit, outputs=outputs, statuses=["400", "501"], words=["probability"])

    # Errors.

    def with_input(self, name, values, datatype, **options):
        """One input made of that, instead of the credit network's."""
        input_ = triton.InferInput(name, list(values.shape), datatype)
        input_.set_data_from_numpy(values, binary_data=options.pop("binary", True))
        return self.client.infer("credit_risk", [input_], **options)

    def check_a_wrong_input_name_is_refused(self):
        values = array(self.credit.inputs[0])
        for binary in [True, False]:
            words = ["feature_s", "features"]
            refused(self.with_input, "feature_s", values, "FP32", binary=binary, statuses=["400"], words=words)

    def check_a_wrong_datatype_is_refused(self):
        values = array(self.credit.inputs[0])
        others = {"FP64": np.float64, "FP16": np.float16, "INT64": np.int64, "UINT8": np.uint8, "BOOL": bool}
        for datatype, dtype in others.items():
            for binary in [True, False]:
                words = ["features", "FP32", datatype]
                refused(
                    self.with_input, "features", values.astype(dtype), datatype,
                    binary=binary, statuses=["400"], words=words,
                )  # fmt: skip
        texts = values.astype(str).astype(object)
        for binary in [True, False]:
            words = ["features", "FP32", "BYTES"]
            refused(self.with_input, "features", texts, "BYTES", binary=binary, statuses=["400"], words=words)

    def check_a_wrong_shape_is_refused(self):
        values = array(self.credit.inputs[0])
        shapes = [(values[:, :53], "53"), (values.reshape(-1), "108"), (values.reshape(1, 2, 54), "1")]
        for wrong, size in shapes:
            for binary in [True, False]:
                words = ["features", "54", size]
                refused(self.with_input, "features", wrong, "FP32", binary=binary, statuses=["400"], words=words)

    def check_missing_and_double_inputs_are_refused(self):
        refused(self.client.infer, "credit_risk", [], statuses=["400"], words=["features"])
        twice = inputs_of(self.credit) + inputs_of(self.credit)
        refused(self.client.infer, "credit_risk", twice, statuses=["400"], words=["features", "twice"])
        extra = triton.InferInput("more", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32))
        refused(
            self.client.infer, "credit_risk", [*inputs_of(self.credit), extra], statuses=["400"], words=["more"]
        )  # fmt: skip

    def check_an_unknown_output_is_refused(self):
        outputs = [triton.InferRequestedOutput("no_such_output")]
        refused(self.infer, self.credit, outputs=outputs, statuses=["400"], words=["no_such_output", "probability"])

    def check_an_unknown_model_or_version_is_refused(self):
        inputs = inputs_of(self.credit)
        refused(self.client.infer, "no_such_model", inputs, statuses=["404"], words=["no_such_model"])
        refused(self.infer, self.credit, model_version="99", statuses=["404"], words=["credit_risk", "99"])

    def check_a_timeout_that_is_over_is_refused(self):
        refused(self.infer, self.credit, timeout=0, statuses=["400", "504"])

    # Statistics.

    def statistics(self, model, version=""):
        (statistics,) = self.client.get_inference_statistics(model, version)["model_stats"]
        return statistics

    def check_statistics_have_all_fields(self):
        everything = self.client.get_inference_statistics()["model_stats"]
        must(set(self.served) <= {one["name"] for one in everything}, "a model is missing in the statistics of all")
        for model in self.served:
            for one in [self.statistics(model), self.statistics(model, "1")]:
                must_equal((one["name"], one["version"]), (model, "1"), "name and version")
                for key in ["last_inference", "inference_count", "execution_count"]:
                    must(isinstance(one[key], int), f"`{key}` is no integer")
                for key in ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]:
                    must_be_duration(one["inference_stats"][key], key)
                must(one["batch_stats"], "no `batch_stats` after inferences")
                for batch in one["batch_stats"]:
                    must(batch["batch_size"] >= 1, "a batch of nothing")
                    for key in ["compute_input", "compute_infer", "compute_output"]:
                        must_be_duration(batch[key], key)

    def check_statistics_count_inferences(self):
        before, requests = self.statistics("credit_risk"), 5
        for _ in range(requests):
            self.infer(self.credit)
        wait_until(
            lambda: self.successes() - before["inference_stats"]["success"]["count"] == requests,
            f"{requests} more successes",
        )
        after = self.statistics("credit_risk")
        more = {key: after[key] - before[key] for key in ["inference_count", "execution_count"]}
        must_equal(more["inference_count"], requests * self.credit.rows, "more inferences (rows)")
        must_equal(more["execution_count"], requests, "more executions")
        for key in ["queue", "compute_infer"]:
            counts = [one["inference_stats"][key]["count"] for one in (before, after)]
            must_equal(counts[1] - counts[0], requests, f"more in `{key}`")
        took = after["inference_stats"]["compute_infer"]["ns"] - before["inference_stats"]["compute_infer"]["ns"]
        must(took > 0, "no compute time")
        now = time.time() * 1000
        must(now - 60_000 < after["last_inference"] <= now + 1_000, f"last_inference {after['last_inference']}")
        batches = {batch["batch_size"] for batch in after["batch_stats"]}
        must(self.credit.rows in batches, f"no batch of {self.credit.rows} rows in {batches}")

    def successes(self):
        return self.statistics("credit_risk")["inference_stats"]["success"]["count"]

    # The repository.

    def entry(self, model):
        entries = [entry for entry in self.client.get_model_repository_index() if entry["name"] == model]
        must(entries, f"{model} is not in the index")
        return entries[0]

    def check_repository_index(self):
        for model in self.served:
            entry = self.entry(model)
            must_equal((entry["version"], entry["state"]), ("1", "READY"), f"version and state of {model}")
            must(isinstance(entry.get("reason", ""), str), "`reason` is no text")

    def check_the_forest_is_served_or_says_what_is_missing(self):
        if FOREST in self.served:
            return must_be_right(self.samples[FOREST], self.infer(self.samples[FOREST]))
        entry = self.entry(FOREST)
        must_equal(entry["state"], "UNAVAILABLE", "state")
        must_name(entry["reason"], ["TreeEnsemble"], "the reason")
        refused(self.infer, self.samples[FOREST], statuses=["400", "404", "503"], words=[FOREST])

    def check_unloading_and_loading(self):
        must_be_right(self.digits, self.infer(self.digits))
        self.client.unload_model("digits")
        wait_until(lambda: not self.client.is_model_ready("digits"), "digits is not ready")
        refused(self.infer, self.digits, statuses=["400", "404", "503"], words=["digits"])
        wait_until(lambda: self.entry("digits")["state"] == "UNAVAILABLE", "the index says UNAVAILABLE")
        must(self.client.is_server_ready(), "the server is not ready because one model was unloaded")
        must_be_right(self.credit, self.infer(self.credit))
        self.client.load_model("digits")
        wait_until(lambda: self.client.is_model_ready("digits"), "digits is ready")
        wait_until(lambda: self.entry("digits")["state"] == "READY", "the index says READY")
        must_be_right(self.digits, self.infer(self.digits))

    def check_loading_again_what_is_loaded(self):
        self.client.load_model("digits")
        wait_until(lambda: self.client.is_model_ready("digits"), "digits is ready")
        must_be_right(self.digits, self.infer(self.digits))

    def check_unloading_twice_and_with_dependents(self):
        self.client.unload_model("digits", unload_dependents=True)
        wait_until(lambda: not self.client.is_model_ready("digits"), "digits is not ready")
        try:
            self.client.unload_model("digits")
        except InferenceServerException as error:
            must_name(error.message(), ["digits"])
        self.client.load_model("digits")
        wait_until(lambda: self.client.is_model_ready("digits"), "digits is ready")

    def check_loading_and_unloading_an_unknown_model_is_refused(self):
        for call in [self.client.load_model, self.client.unload_model]:
            refused(call, "no_such_model", statuses=["400", "404"], words=["no_such_model"])

    def check_loading_with_a_config_that_is_none_is_refused(self):
        refused(self.client.load_model, "digits", config="{not json", statuses=["400", "501"], words=["config"])
        must_be_right(self.digits, self.infer(self.digits))

    def check_loading_with_files_is_refused(self):
        options = {"config": json.dumps({"name": "digits"}), "files": {"file:1/model.onnx": b"no model"}}
        refused(self.client.load_model, "digits", statuses=["400", "501"], **options)
        must_be_right(self.digits, self.infer(self.digits))


def must_be_duration(value, key):
    fits = isinstance(value, dict) and isinstance(value.get("count"), int) and isinstance(value.get("ns"), int)
    must(fits, f"`{key}` is no {{count, ns}}: {value!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the node")
    parser.add_argument("--models", type=type(MODELS), default=MODELS, help="the folder with the samples")
    parser.add_argument("--forest", choices=["if-served", "required"], default="if-served")
    arguments = parser.parse_args()
    conformance, checks = Conformance(arguments.url, arguments.models), Checks()
    if arguments.forest == "required" or conformance.client.is_model_ready(FOREST):
        conformance.served.append(FOREST)
    for attribute in vars(Conformance):
        if attribute.startswith("check_"):
            checks.run(attribute.removeprefix("check_"), getattr(conformance, attribute))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
