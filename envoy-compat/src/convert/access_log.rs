//! Access logs: where lines go, what they say, and which are written.

use xebec_proto::envoy::config::accesslog::v3::{
    self as accesslog, access_log::ConfigType, access_log_filter::FilterSpecifier, comparison_filter::Op,
};
use xebec_proto::envoy::config::core::v3::{self as core, substitution_format_string};
use xebec_proto::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use xebec_proto::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use xebec_proto::google::protobuf::{Any, Struct, Value, value::Kind};
use xebec_proto::type_url;

use super::place::{Outcome, Place, ignored, inert};
use super::value;
use crate::model::{AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, Format, JsonFormat};

/// All logs of one place. A kind of log that is not supported is left out.
pub(super) fn logs(at: Place<'_>, logs: &[accesslog::AccessLog]) -> Outcome<Vec<AccessLog>> {
    Ok(at.each(logs, one)?.into_iter().flatten().collect())
}

fn one(at: Place<'_>, log: &accesslog::AccessLog) -> Outcome<Option<AccessLog>> {
    let accesslog::AccessLog { name, filter, config_type } = log;
    inert!(name);
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return Err(at.field("typed_config").refuse("a configuration is required"));
    };
    let inner = at.field("typed_config");
    let Some((sink, format)) = sink(inner, any)? else {
        inner.ignored("this kind of log is not written");
        return Ok(None);
    };
    let filter = match filter {
        Some(filter) => self::filter(at.field("filter"), filter)?,
        None => AccessLogFilter::All,
    };
    Ok(Some(AccessLog { sink, format, filter }))
}

fn sink(at: Place<'_>, any: &Any) -> Outcome<Option<(AccessLogSink, AccessLogFormat)>> {
    Ok(Some(match type_url::name_of(&any.type_url) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let FileAccessLog { path, access_log_format } = value::unpack(at, any)?;
            let sink = match path.as_str() {
                "" => return Err(at.field("path").refuse("a path is required")),
                "/dev/stdout" => AccessLogSink::Stdout,
                "/dev/stderr" => AccessLogSink::Stderr,
                path => AccessLogSink::File(path.into()),
            };
            let format = match access_log_format {
                None => default_format(),
                Some(file_access_log::AccessLogFormat::Format(text)) if text.is_empty() => default_format(),
                Some(file_access_log::AccessLogFormat::Format(text)) => self::text(at.field("format"), &text)?,
                Some(file_access_log::AccessLogFormat::JsonFormat(json)) => self::json(at.field("json_format"), &json)?,
                Some(file_access_log::AccessLogFormat::TypedJsonFormat(json)) => {
                    self::json(at.field("typed_json_format"), &json)?
                }
                Some(file_access_log::AccessLogFormat::LogFormat(format)) => {
                    log_format(at.field("log_format"), &format)?
                }
            };
            (sink, format)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let StdoutAccessLog { access_log_format } = value::unpack(at, any)?;
            let format = match access_log_format {
                Some(stdout_access_log::AccessLogFormat::LogFormat(f)) => log_format(at.field("log_format"), &f)?,
                None => default_format(),
            };
            (AccessLogSink::Stdout, format)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let StderrAccessLog { access_log_format } = value::unpack(at, any)?;
            let format = match access_log_format {
                Some(stderr_access_log::AccessLogFormat::LogFormat(f)) => log_format(at.field("log_format"), &f)?,
                None => default_format(),
            };
            (AccessLogSink::Stderr, format)
        }
        _ => return Ok(None),
    }))
}

fn default_format() -> AccessLogFormat {
    AccessLogFormat::Text(Format::default_access_log())
}

fn text(at: Place<'_>, text: &str) -> Outcome<AccessLogFormat> {
    Format::parse(text).map(AccessLogFormat::Text).map_err(|error| at.refuse(error))
}

fn log_format(at: Place<'_>, value: &core::SubstitutionFormatString) -> Outcome<AccessLogFormat> {
    let core::SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } =
        value;
    ignored!(at; omit_empty_values, formatters);
    inert!(content_type, json_format_options);
    match format {
        Some(substitution_format_string::Format::TextFormat(text)) => self::text(at.field("text_format"), text),
        Some(substitution_format_string::Format::TextFormatSource(source)) => {
            let at = at.field("text_format_source");
            let bytes = value::inline_data(at, source)?;
            let text = String::from_utf8(bytes).map_err(|_| at.refuse("not UTF-8"))?;
            self::text(at, &text)
        }
        Some(substitution_format_string::Format::JsonFormat(json)) => self::json(at.field("json_format"), json),
        None => Ok(default_format()),
    }
}

fn json(at: Place<'_>, value: &Struct) -> Outcome<AccessLogFormat> {
    json_object(at, value).map(AccessLogFormat::Json)
}

/// Keys come in alphabetical order, because the wire has none.
fn json_object(at: Place<'_>, value: &Struct) -> Outcome<JsonFormat> {
    let mut fields: Vec<_> = value.fields.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    let fields = fields.into_iter().map(|(key, value)| Ok((key.clone(), json_value(at.key(key), value)?)));
    Ok(JsonFormat::Object(fields.collect::<Outcome<_>>()?))
}

fn json_value(at: Place<'_>, value: &Value) -> Outcome<JsonFormat> {
    Ok(match &value.kind {
        Some(Kind::StringValue(text)) => JsonFormat::Text(Format::parse(text).map_err(|error| at.refuse(error))?),
        Some(Kind::StructValue(inner)) => json_object(at, inner)?,
        Some(Kind::ListValue(list)) => JsonFormat::List(at.each(&list.values, json_value)?),
        _ => JsonFormat::Constant(xebec_proto::structs::to_json(value)),
    })
}

/// A filter that is not supported lets every line through: a line too many is better than one too few.
fn filter(at: Place<'_>, value: &accesslog::AccessLogFilter) -> Outcome<AccessLogFilter> {
    let accesslog::AccessLogFilter { filter_specifier } = value;
    Ok(match filter_specifier {
        Some(FilterSpecifier::StatusCodeFilter(filter)) => {
            let comparison = filter.comparison.as_ref();
            let wanted = comparison.and_then(|c| c.value.as_ref()).map_or(0, |value| value.default_value);
            match (comparison.map(|c| Op::try_from(c.op)), u16::try_from(wanted)) {
                (Some(Ok(Op::Ge)), Ok(status)) => AccessLogFilter::StatusAtLeast(status),
                _ => {
                    at.field("status_code_filter").ignored("every line is written");
                    AccessLogFilter::All
                }
            }
        }
        Some(FilterSpecifier::ResponseFlagFilter(filter)) => {
            AccessLogFilter::ResponseFlags(filter.flags.iter().map(|flag| flag.as_str().into()).collect())
        }
        Some(FilterSpecifier::NotHealthCheckFilter(_)) | None => AccessLogFilter::All,
        Some(_) => {
            at.ignored("every line is written");
            AccessLogFilter::All
        }
    })
}
