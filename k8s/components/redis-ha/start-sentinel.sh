# Sentinel writes what it learns into its configuration; names instead of addresses survive a restart.
set -eu
master=$(redis-cli -h redis-node -p 26379 --raw sentinel get-master-addr-by-name tidegate 2>/dev/null | head -n 1 || true)
case "$master" in *.redis-node) ;; *) master=redis-node-0.redis-node ;; esac
{
    echo "port 26379"
    echo "dir /sentinel"
    echo "sentinel resolve-hostnames yes"
    echo "sentinel announce-hostnames yes"
    echo "sentinel announce-ip $(hostname).redis-node"
    echo "sentinel monitor tidegate $master 6379 2"
    echo "sentinel auth-pass tidegate $REDIS_PASSWORD"
    echo "sentinel down-after-milliseconds tidegate 3000"
    echo "sentinel failover-timeout tidegate 10000"
} > /sentinel/sentinel.conf
exec redis-sentinel /sentinel/sentinel.conf
