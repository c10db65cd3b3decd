"""What Kafka's errors mean for us: whom to tell, and whether waiting helps."""

from __future__ import annotations

import logging
import ssl

from streamspec.core.errors import DependencyUnavailable


def quiet() -> None:
    """aiokafka tells each failed attempt in lines of its own; ours say it once, with what to do."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def is_hopeless(error: BaseException) -> bool:
    """Whether trying again cannot help until a person does something."""
    from aiokafka import errors

    hopeless = (
        errors.TopicAuthorizationFailedError,
        errors.GroupAuthorizationFailedError,
        errors.ClusterAuthorizationFailedError,
        errors.TransactionalIdAuthorizationFailed,
        errors.AuthenticationFailedError,
        errors.AuthenticationMethodNotSupported,
        errors.UnsupportedSaslMechanismError,
        errors.SaslAuthenticationFailed,
        errors.IncompatibleBrokerVersion,
        errors.InvalidTopicError,
        errors.InconsistentGroupProtocolError,
        errors.InvalidGroupIdError,
        errors.InvalidSessionTimeoutError,
    )
    return isinstance(error, hopeless) or _names_one_of(error, hopeless)


def _names_one_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """aiokafka wraps some errors as text: ``KafkaError("Unexpected error ... GroupAuthorizationFailedError(...)")``."""
    text = str(error)
    return any(kind.__name__ in text for kind in kinds)


def unavailable(error: BaseException, where: str, value: object) -> DependencyUnavailable:
    """One clear line for ``error``, with the next step that fits."""
    what, next_step = _explained(error)
    return DependencyUnavailable(what, where=where, value=value, next_step=next_step)


def _explained(error: BaseException) -> tuple[str, str]:
    from aiokafka import errors

    text = str(error) or type(error).__name__
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return "the topic does not exist", "create it (kafka-topics.sh --create), or correct its name"
    if isinstance(error, errors.InvalidTopicError):
        return "not a name of a topic", "use letters, digits, dots, dashes and underscores"
    if "TopicAuthorizationFailed" in text or isinstance(error, errors.TopicAuthorizationFailedError):
        return "not allowed to use the topic", "give this user the right to it (kafka-acls.sh --add --topic)"
    if "GroupAuthorizationFailed" in text or isinstance(error, errors.GroupAuthorizationFailedError):
        return "not allowed to use the consumer group", "give this user the right to it (kafka-acls.sh --add --group)"
    if isinstance(error, errors.TransactionalIdAuthorizationFailed):
        return "not allowed to use the transactional id", "see kafka-acls.sh --add --transactional-id"
    if isinstance(error, errors.ClusterAuthorizationFailedError):
        return "not allowed to write idempotently", "see kafka-acls.sh --add --idempotent-write"
    if isinstance(error, errors.AuthenticationFailedError | errors.SaslAuthenticationFailed):
        return "the broker refuses name or password", "check sasl.username, its password and sasl.mechanism"
    if isinstance(error, errors.AuthenticationMethodNotSupported | errors.UnsupportedSaslMechanismError):
        return "the broker does not offer this sasl.mechanism", "choose one of its sasl.enabled.mechanisms"
    if isinstance(error, ssl.SSLError):
        return f"TLS with the broker fails: {_short(text)}", "check tls.ca, and the names in the broker's certificate"
    if isinstance(error, errors.KafkaConnectionError | OSError | TimeoutError):
        return f"no broker answers: {_short(text)}", "start it, or check brokers, tls, sasl and the firewall"
    return f"Kafka: {type(error).__name__}: {_short(text)}", "see the broker's log"


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
