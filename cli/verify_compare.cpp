#include "cli/verify_compare.h"

#include <fmt/format.h>

#include <cmath>

#include "cli/options.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/verify/compare_schemes.h"
#include "lib/verify/model_source.h"

namespace tq::cli {
namespace {

std::string general(double value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "-"; }

std::string format_compare_table(const CompareReport& report) {
  const bool model = report.predictions > 0;
  std::vector<std::string> header = {"scheme", "bytes/token", "at 32k", "bits/value", "MSE K", "MSE V", "cos K", "cos V", "softmax KL",
                                     "worst layer", "top-1", "output err."};
  if (model) header.insert(header.end(), {"output KL", "95 %", "ppl ratio", "95 %", "top-1 same"});
  Table table(header);
  std::string notes;
  for (const SchemeNumbers& n : report.schemes) {
    if (!n.refused.empty()) {
      notes += fmt::format("{}: refused: {}\n", n.name, n.refused);
      continue;
    }
    std::vector<std::string> row = {(n.pareto ? "* " : "") + n.name, fmt::format("{:.0f}", n.bytes_per_token),
                                    fmt::format("{:.0f}", n.bytes_per_token_long), fmt::format("{:.2f}", n.bits_per_value),
                                    general(n.k_relative_mse), general(n.v_relative_mse), fmt::format("{:.4f}", n.k_cosine),
                                    fmt::format("{:.4f}", n.v_cosine)};
    for (const double value : {n.kl_mean, n.kl_worst_layer, n.top1, n.output_error}) row.push_back(n.has_attention ? general(value) : "-");
    if (model) {
      const TokenSummary& t = n.effect->tokens;
      row.insert(row.end(), {general(t.kl.estimate), fmt::format("{:.4g}..{:.4g}", t.kl.low, t.kl.high),
                             fmt::format("{:.4f}", t.perplexity_ratio.estimate),
                             fmt::format("{:.4f}..{:.4f}", t.perplexity_ratio.low, t.perplexity_ratio.high),
                             fmt::format("{:.4f}", t.top1.estimate)});
    }
    table.add(row);
  }
  std::string text = fmt::format("Source   {}, {} layers, {} tokens\n", report.source, report.layers, report.tokens);
  if (model) text += fmt::format("Reads    perplexity {:.4g} over {} predictions\n", report.perplexity, report.predictions);
  text += "\n" + table.format() + (notes.empty() ? "" : "\n" + notes);
  return text + fmt::format("\nbytes/token: K and V of all layers, as stored, at {} tokens and at {}; * no other scheme has fewer of "
                            "them at {} and less {}{}\n", report.tokens, kLongContext, report.tokens, report.metric,
                            report.metric == "attention cost" ? " (softmax KL and half the square of output err.)" : "");
}

}  // namespace

void CompareArguments::declare(CLI::App& app) {
  const char* group = "Schemes side by side (with --kv or --model)";
  CLI::Option* compare =
      app.add_option("--compare", schemes,
                     "measure each of these in place of one scheme, a list: kAvB or tqN, with +qjl, +center, +outliersC:B, "
                     "+boundaryN[:B], +sinksS, +recentW, +groupG, +effortE, +corrected, +least-squares, +f16-norms, +rht1, +qr, "
                     "+identity; or another system's: fp8, q8_0, q4_0, kivi2, vllm:turboquant_4bit_nc and others (an unknown name "
                     "lists them)")
          ->delimiter(',')->type_name("LIST")->default_str("")->group(group);
  app.add_flag("--markdown", markdown, "print the table in Markdown")->needs(compare)->group(group);
}

ExitCode run_compare(const CompareArguments& arguments, const std::string& kv, const ModelArguments& model,
                     std::optional<std::int64_t> tokens, int threads, const Device& device, std::int64_t attention_queries,
                     bool json, bool quiet) {
  std::vector<SchemeChoice> choices;
  for (const std::string& name : arguments.schemes) choices.push_back(parse_scheme_choice(name));
  CompareOptions options;
  options.threads = threads;
  options.attention_queries = attention_queries;
  const std::size_t count = choices.size();
  options.on_scheme = [&, number = std::size_t{0}](const std::string& name) mutable {
    say(quiet, fmt::format("compare: {} ({} of {})", name, ++number, count));
  };
  const ModelDevice on_device = DeviceOption::open_model(device);
  options.attention = on_device.attention;
  CompareReport report;
  if (!kv.empty()) {
    const KvDump dump = KvDump::open(kv);
    report = compare_schemes(*make_dump_source(dump), choices, nullptr, *device.backend, options);
  } else {
    const Model opened = Model::open(model.model);
    ModelSource source(opened.dir(), attention_queries);
    const ModelEffect effect = run_reference(opened, model, tokens, threads, on_device.forward.get(), source);
    report = compare_schemes(source, choices, &effect, *device.backend, options);
  }
  fmt::print("{}", json                 ? format_compare_json(report) + "\n"
                   : arguments.markdown ? format_compare_markdown(report)
                                        : format_compare_table(report));
  if (!report.plausible) {
    warn(fmt::format("--allow-random: the reference perplexity is {:.4g} over {} predictions: the numbers say nothing of a trained model",
                     report.perplexity, report.predictions));
  }
  return report.any_measured() ? ExitCode::kDone : ExitCode::kCouldNot;
}

}  // namespace tq::cli
