"""Weaknesses to plant into the shipped files."""

from __future__ import annotations

from typing import NamedTuple

AWS, LOCAL, KUBE, JOB = "cluster.yaml", "cluster/on_premise.yaml", "cluster/kuberay/raycluster.yaml", ""
JOB = "cluster/kuberay/rayjob.yaml"
HEAD_POLICY, WORKER_POLICY = "cluster/aws/head_policy.json", "cluster/aws/worker_policy.json"


class Plant(NamedTuple):
    """One weakness: what is there, and what is put in its place.

    Attributes:
        policy: the file to change, where that is not the cluster's file itself.
        also: a second change of the same file.
    """

    rule: str
    file: str
    old: str
    new: str
    policy: str = ""
    also: tuple[str, str] = ("", "")


SETUP = 'setup_commands:  # in the container, as the user "ray"\n'
OPTIONS = "    - --ulimit nofile=65536:65536\n"
MODE = "    - -e RAY_AUTH_MODE=token             # every Ray process in the container asks for the token\n"
GROUP = "  availability_zone: us-west-2a # EDIT: one zone of it; GPU nodes talk to each other\n"
NODE = "    node_config: &node\n"
MOUNT = '  "~/raypipe_source": "."                   # this repository\n'
CONTEXT = "            securityContext: *container\n"
POD = "      spec:\n        nodeSelector:"


def setup(rule: str, command: str) -> Plant:
    return Plant(rule, AWS, SETUP, f"{SETUP}  - {command}\n")


def option(rule: str, text: str) -> Plant:
    return Plant(rule, AWS, OPTIONS, f"{OPTIONS}    - {text}\n")


def opened(rule: str, protocol: str, ports: tuple[int, int], network: str) -> Plant:
    key = "Ipv6Ranges: [{CidrIpv6: " if ":" in network else "IpRanges: [{CidrIp: "
    group = "  security_group:\n    IpPermissions:\n"
    opening = f"IpProtocol: {protocol!r}, FromPort: {ports[0]}, ToPort: {ports[1]}, {key}'{network}'}}]"
    return Plant(rule, AWS, GROUP, f"{GROUP}{group}      - {{{opening}}}\n")


def container(rule: str, context: str) -> Plant:
    return Plant(rule, KUBE, CONTEXT, f"            securityContext: {{{context}}}\n")


def pod(rule: str, line: str) -> Plant:
    return Plant(rule, KUBE, POD, f"      spec:\n        {line}\n        nodeSelector:")


DROPPED = "capabilities: {drop: [ALL]}"
KEY = (
    "AKIA" + "IOSFODNN7EXAMPLE"
)  # the maker's own example; in two parts, so that no scanner takes this file for one

PLANTS = [
    # doors
    Plant("dashboard-public", AWS, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    Plant("dashboard-public", LOCAL, "--dashboard-host=127.0.0.1", "--dashboard-host 10.0.0.5"),
    opened("port-open", "tcp", (8265, 8265), "198.51.100.7/32"),
    opened("port-open", "tcp", (10001, 10001), "0.0.0.0/0"),
    opened("port-open", "tcp", (6379, 6379), "::/0"),
    opened("port-open", "tcp", (443, 443), "0.0.0.0/0"),
    opened("port-open", "tcp", (10002, 19999), "10.0.0.0/8"),
    opened("ssh-open", "tcp", (22, 22), "0.0.0.0/0"),
    opened("ssh-open", "tcp", (22, 22), "::/0"),
    Plant("group-by-ray", AWS, "      SecurityGroupIds: [sg-00000000000000000]\n", ""),
    Plant(
        "public-address",
        AWS,
        "      InstanceType: c7i.8xlarge ",
        "      NetworkInterfaces: [{AssociatePublicIpAddress: true}]\n      InstanceType: c7i.8xlarge ",
    ),
    Plant(
        "ray-client",
        AWS,
        "--dashboard-host=127.0.0.1",
        "--ray-client-server-port=10001",
    ),
    Plant("ray-client", KUBE, '{num-cpus: "0"}', '{num-cpus: "0", ray-client-server-port: "10001"}'),
    Plant(
        "ray-client",
        KUBE,
        "name: metrics}",
        "name: metrics}\n              - {containerPort: 10001, name: client}",
    ),
    setup("listens-everywhere", "nohup tensorboard --logdir ~/raypipe/runs --bind_all &"),
    setup("listens-everywhere", "socat TCP-LISTEN:8266,fork TCP:127.0.0.1:8265 &"),
    setup("listens-everywhere", "python -m http.server 9000 &"),
    Plant("exposed-service", KUBE, "serviceType: ClusterIP ", "serviceType: LoadBalancer "),
    Plant("exposed-service", JOB, "serviceType: ClusterIP ", "serviceType: NodePort "),
    Plant(
        "exposed-service",
        KUBE,
        "    serviceType: ClusterIP ",
        "    enableIngress: true\n    serviceType: ClusterIP ",
    ),
    Plant(
        "exposed-service",
        KUBE,
        "apiVersion: ray.io/v1\n",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\n---\napiVersion: ray.io/v1\n",
    ),
    Plant("exposed-service", KUBE, "{containerPort: 8265,", "{containerPort: 8265, hostPort: 8265,"),
    # who may give work
    Plant("no-token-head", LOCAL, "    RAY_AUTH_MODE=token ", "    "),  # the first of the two is the head's
    Plant(
        "no-token-worker",
        LOCAL,
        "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start --add",
        "ray start --add",
    ),
    Plant("token-elsewhere", AWS, "RAY_AUTH_MODE=token ray start --head", "ray start --head"),
    Plant("token-elsewhere", AWS, "RAY_AUTH_MODE=token ray start --add", "ray start --add"),
    Plant("no-token-docker", AWS, MODE, ""),
    Plant("auth-disabled", AWS, SETUP, f"{SETUP}  - echo 'export RAY_AUTH_MODE=disabled' >> ~/.bashrc\n"),
    Plant(
        "token-not-mounted",
        AWS,
        '  "~/.ray/auth_token": "~/.ray/auth_token"',
        '  "~/other": "constraints.txt"',
    ),
    Plant("token-readable", LOCAL, "  - chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token\n", ""),
    Plant("token-readable", LOCAL, "chmod 600 ~/.ray/auth_token", "chmod 644 ~/.ray/auth_token"),
    setup("token-readable", "chmod 644 ~/.ray/auth_token"),
    Plant(
        "token-readable",
        AWS,
        "chmod 600 ~/.ray/auth_token\n",
        "chmod 600 ~/.ray/auth_token\n  - sudo chmod -R go+r ~/.ray\n",
    ),
    setup(
        "host-key-unchecked", "git -c core.sshCommand='ssh -o StrictHostKeyChecking=no' clone git@host:a ~/a"
    ),
    Plant(
        "host-key-unchecked",
        AWS,
        "  ssh_user: ubuntu\n",
        "  ssh_user: ubuntu\n  ssh_proxy_command: ssh -o StrictHostKeyChecking=no -W %h:%p gate\n",
    ),
    Plant("ssh-as-root", LOCAL, "ssh_user: raypipe ", "ssh_user: root "),
    # secrets
    setup("secret-in-file", "export WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567"),
    setup("secret-in-file", f"aws configure set aws_access_key_id {KEY}"),
    setup("secret-in-file", "echo | docker login -u me -p gh0stpass my.host"),
    setup("secret-in-file", "aws configure set aws_secret_access_key gh0stpass"),
    setup("secret-in-file", "\"curl -H 'Authorization: Bearer gh0stpass' -o a https://my.host/a\""),
    setup("secret-in-file", "git clone https://me:gh0stpass@git.host/me/repo ~/repo"),
    option("secret-in-file", "-e HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz"),
    Plant("secret-in-file", AWS, "--port=6379 --object", "--port=6379 --redis-password=hunter2 --object"),
    Plant(
        "secret-in-file", AWS, GROUP, f"{GROUP}  aws_credentials: {{aws_secret_access_key: abcdefghijk}}\n"
    ),
    Plant(
        "secret-in-file",
        KUBE,
        'value: "0"}',
        'value: "0"}\n              - {name: OPENAI_API_KEY, value: abc-def}',
    ),
    Plant(
        "secret-in-file",
        KUBE,
        "apiVersion: ray.io/v1\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {key: abc}\n---\napiVersion: ray.io/v1\n",
    ),
    Plant("keys-sent", AWS, MOUNT, f'{MOUNT}  "~/.aws": "~/.aws"\n'),
    Plant("keys-sent", LOCAL, MOUNT, f'{MOUNT}  "~/home": "~"\n'),
    Plant(
        "upload-unfiltered",
        AWS,
        "rsync_filter: [",
        "cluster_synced_files: [] #",
        also=("rsync_exclude: [.git]", "rsync_exclude: []"),
    ),
    Plant(
        "upload-unfiltered",
        AWS,
        "rsync_filter: [.gitignore, .rayignore]",
        "#",
    ),
    Plant("upload-unfiltered", AWS, "rsync_filter: [.gitignore, .rayignore]", "rsync_filter: [.git]"),
    setup("secret-in-file", f"echo {'0123456789abcdef' * 4} > ~/.ray/auth_token"),
    setup("secret-in-file", f"cat > ~/.ray/auth_token <<< {'0123456789abcdef' * 4}"),
    setup("secret-in-file", "printf 'gh0stpass0123456789' | sudo tee -a ~/judge_key"),
    Plant("keys-sent", AWS, MOUNT, f'{MOUNT}  "~/.env": ".env"\n'),
    Plant("keys-sent", AWS, MOUNT, f'{MOUNT}  "~/s": "./secrets"\n'),
    Plant("keys-sent", AWS, "rsync_filter: [", "cluster_synced_files: [~/.aws/credentials]\nrsync_filter: ["),
    # images and packages
    Plant("image-unpinned", AWS, "ray:2.60.0-py311-gpu", "ray:latest-gpu"),
    Plant("image-unpinned", AWS, "rayproject/ray:2.60.0-py311-gpu", "my.host:5000/ray"),
    Plant("image-unpinned", KUBE, "raypipe:0.6.0-ray2.60.0", "raypipe"),
    Plant("ray-version", AWS, "ray:2.60.0-py311-gpu", "ray:2.44.1-py311-gpu"),
    setup("ray-version", "pip install 'ray[default]==2.44.1'"),
    Plant("ray-version", KUBE, 'rayVersion: "2.60.0"', 'rayVersion: "2.9.0"'),
    Plant(
        "images-differ",
        AWS,
        "  container_name: raypipe\n",
        "  container_name: raypipe\n  head_image: rayproject/ray:2.60.0-py311\n",
    ),
    setup("pip-unpinned", "pip install -U wandb"),
    setup("pip-unpinned", "pip install git+https://git.host/me/repo"),
    setup(
        "pip-unpinned",
        "pip install -c ~/raypipe_source/constraints.txt 'repo @ git+https://git.host/me/repo.git@main'",
    ),
    Plant(
        "pip-unpinned",
        AWS,
        "pip install -c ~/raypipe_source/constraints.txt boto3",
        "pip install 'boto3>=1.4.8'",
    ),
    Plant(
        "pip-unpinned",
        JOB,
        "  submissionMode: K8sJobMode\n",
        "  runtimeEnvYAML: |\n    pip: [wandb, tqdm==4.67.1]\n",
    ),
    # containers
    option("privileged", "--privileged"),
    container("privileged", f"privileged: true, allowPrivilegeEscalation: false, {DROPPED}"),
    option("container-socket", "-v /var/run/docker.sock:/var/run/docker.sock"),
    option("host-mount", "-v /:/host"),
    option("host-mount", "-v ~/.ssh:/home/ray/.ssh"),
    option("host-mount", "--mount type=bind,source=/etc,target=/host_etc"),
    Plant(
        "host-mount",
        KUBE,
        "          - {name: shm, emptyDir: {medium: Memory, sizeLimit: 8Gi}}",
        "          - {name: shm, hostPath: {path: /dev/shm}}",
    ),
    option("host-namespace", "--pid=host"),
    option("host-namespace", "--ipc host"),
    pod("host-namespace", "hostNetwork: true"),
    option("host-network", "--network=host"),
    option("extra-powers", "--cap-add=SYS_ADMIN"),
    option("extra-powers", "--security-opt seccomp=unconfined"),
    container("extra-powers", "allowPrivilegeEscalation: false, capabilities: {add: [SYS_PTRACE]}"),
    option("runs-as-root", "--user root"),
    container("runs-as-root", f"runAsUser: 0, allowPrivilegeEscalation: false, {DROPPED}"),
    Plant("runs-as-root", KUBE, "          runAsNonRoot: true\n", ""),
    container("may-escalate", DROPPED),
    Plant(
        "no-limits",
        KUBE,
        '{cpu: "32", memory: 56Gi}\n              securityContext',
        '{cpu: "32"}\n              securityContext',
    ),
    Plant("service-account-token", KUBE, "          automountServiceAccountToken: false\n", ""),
    # what machines may do
    Plant("metadata-v1", AWS, "HttpTokens: required", "HttpTokens: optional"),
    Plant(
        "metadata-v1",
        AWS,
        "      MetadataOptions: {HttpEndpoint: enabled, HttpTokens: required, HttpPutResponseHopLimit: 1}\n",
        "",
    ),
    Plant(
        "disk-unencrypted",
        AWS,
        "VolumeSize: 500, VolumeType: gp3, Encrypted: true",
        "VolumeSize: 500, VolumeType: gp3",
    ),
    Plant("role-by-ray", AWS, "      IamInstanceProfile: {Name: raypipe-head}\n", ""),
    Plant("role-wide", AWS, "{Name: raypipe-worker}", "{Name: AmazonEC2FullAccess}"),
    Plant(
        "role-wide",
        AWS,
        "{Name: raypipe-head}",
        "{Arn: 'arn:aws:iam::111122223333:instance-profile/ray-autoscaler-v1'}",
    ),
    Plant("role-wide", AWS, '"Action": "ec2:DescribeInstances"', '"Action": "ec2:*"', HEAD_POLICY),
    Plant("role-wide", AWS, '"Action": "s3:ListBucket"', '"Action": "*"', WORKER_POLICY),
    Plant("role-wide", AWS, "arn:aws:iam::*:role/raypipe-worker", "*", HEAD_POLICY),
    Plant("role-wide", AWS, "arn:aws:s3:::edit-this-bucket/raypipe/*", "arn:aws:s3:::*/*", WORKER_POLICY),
    Plant(
        "role-wide",
        KUBE,
        "apiVersion: ray.io/v1\n",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: a}\n"
        "roleRef: {kind: ClusterRole, name: cluster-admin}\n---\napiVersion: ray.io/v1\n",
    ),
    # machines
    Plant("spot-head", AWS, NODE, f"{NODE}      InstanceMarketOptions: {{MarketType: spot}}\n"),
    Plant(
        "spot-head",
        KUBE,
        "        nodeSelector:            #",
        "        nodeSelector:\n          karpenter.sh/capacity-type: spot #",
    ),
    Plant(
        "kept-spot",
        AWS,
        "cache_stopped_nodes: false ",
        "cache_stopped_nodes: true ",
        also=("      # InstanceMarketOptions", "      InstanceMarketOptions"),
    ),
    Plant("head-works", AWS, "resources: {CPU: 0}", "resources: {CPU: 8}"),
    Plant("head-works", LOCAL, " --num-cpus=0", ""),
    Plant("head-works", KUBE, '{num-cpus: "0"}', "{}"),
    Plant("machine-left-out", LOCAL, "=0 RAY_enable_autoscaler_v2=0", "=0"),
    Plant("zone-elsewhere", AWS, "availability_zone: us-west-2a ", "availability_zone: us-east-1a "),
    Plant("zone-elsewhere", AWS, "efs.us-west-2.amazonaws.com", "efs.eu-west-1.amazonaws.com"),
    Plant("node-counts", AWS, "    max_workers: 2\n", "    max_workers: -1\n"),
    Plant("node-counts", AWS, "    min_workers: 0   # none", "    min_workers: 3   # none"),
    # commands
    setup("pipe-to-shell", "curl -LsSf https://host/install.sh | sh"),
    setup("pipe-to-shell", "wget -qO- https://host/install.sh | sudo -E bash -s"),
    setup("pipe-to-shell", "bash <(curl -s https://host/install.sh)"),
    setup("pipe-to-shell", 'sh -c "$(curl -fsSL https://host/install.sh)"'),
    setup("pipe-to-shell", "curl -fsSLo i.sh https://host/install.sh && bash i.sh"),
    setup("pipe-to-shell", "wget https://host/i.sh\n  - chmod +x i.sh\n  - ./i.sh --yes"),
    setup("open-to-all-users", "sudo chmod -R 777 ~/raypipe"),
    setup("open-to-all-users", "chmod a+rwx ~/raypipe"),
    setup("unverified-download", "curl -k -o a.tgz https://host/a.tgz"),
    setup("unverified-download", "pip install -c constraints.txt --trusted-host host wandb"),
    setup("unverified-download", "wget http://host/a.tgz"),
    setup("tunnel-out", "nohup ngrok http 8265 &"),
    setup("tunnel-out", "ssh -fN -R 8265:localhost:8265 me@my.host"),
    setup("firewall-off", "sudo ufw disable"),
    Plant("firewall-off", LOCAL, "setup_commands:\n", "setup_commands:\n  - sudo systemctl stop firewalld\n"),
    # what is no cluster's file
    Plant("ray-schema", AWS, "max_workers: 10 ", "max_worker: 10 "),
    Plant("ray-schema", AWS, "idle_timeout_minutes: 10 ", "idle_timeout_minutes: ten "),
    Plant("ray-schema", AWS, "  container_name: raypipe\n", ""),
    Plant("ray-schema", LOCAL, "  head_ip: 192.0.2.10 ", "  head_ips: 192.0.2.10 "),
    Plant("ray-schema", AWS, "  type: aws\n", "  type: awss\n"),
    Plant("ray-schema", AWS, "worker_setup_commands: []", "worker_setup_commands: null"),
    Plant("ray-schema", AWS, '"~/.ray/auth_token": "~/.ray/auth_token"', '"~/.ray/auth_token": null'),
    Plant("ec2-model", AWS, "VolumeSize: 500", "VolumeSiz: 500"),
    Plant("ec2-model", AWS, "VolumeSize: 500", "VolumeSize: '500'"),
    Plant("ec2-word", AWS, "VolumeSize: 500, VolumeType: gp3", "VolumeSize: 500, VolumeType: gp33"),
    Plant("kube-structure", KUBE, '{num-cpus: "0"}', "{num-cpus: 0}"),
    Plant("kube-structure", KUBE, "apiVersion: ray.io/v1\n", "apiVersion: ray.io/v1alpha1\n"),
    Plant(
        "kube-structure",
        KUBE,
        "      minReplicas: 0\n      maxReplicas: 8",
        "      minReplicas: 9\n      maxReplicas: 8",
    ),
    Plant("kube-structure", JOB, "  entrypoint: python /", "  jobId: /"),
    Plant("kube-structure", JOB, '{cpu: "30", memory: 56Gi}', '{cpu: "30", memory: lots}'),
    Plant(
        "kube-unknown",
        KUBE,
        "enableInTreeAutoscaling: true",
        "enableInTreeAutoscaling: true\n  enableAutoscaler: true",
    ),
]
