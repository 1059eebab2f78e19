"""RabbitMQ: the connection, the exchange, the bytes of a message, and the publisher over them."""
