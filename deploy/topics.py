"""Makes the topics of the compose demo, where they are not there yet: ``topics.py BROKERS PARTITIONS NAME...``"""

import sys

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

brokers, partitions, *names = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": brokers})  # kept: what it was asked for ends with it
made = admin.create_topics(
    [NewTopic(name, int(partitions), 1) for name in names], operation_timeout=30, request_timeout=30
)
for name, done in made.items():
    try:
        done.result()
        print(f"topic {name}: made")
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        print(f"topic {name}: is there")
