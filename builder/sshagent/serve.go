package sshagent

import (
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Messages of the agent protocol, draft-miller-ssh-agent section 6.1.
const (
	msgFailure           = 5
	msgRequestIdentities = 11
	msgIdentitiesAnswer  = 12
	msgSignRequest       = 13
	msgSignResponse      = 14
)

// maxMessage is how many bytes a message may have, as in OpenSSH (AGENT_MAX_LEN).
const maxMessage = 256 << 10

var errMessage = errors.New("not a message of the agent protocol")

// serve answers requests until the connection ends. agent.ServeAgent would do most of it, but it logs on its own, and
// knows many more messages.
func serve(a agent.ExtendedAgent, conn io.ReadWriter) error {
	for {
		request, err := readMessage(conn)
		if err != nil {
			return err
		}
		reply := answer(a, request)
		if reply == nil || len(reply) > maxMessage {
			reply = []byte{msgFailure}
		}
		framed := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(reply)), uint32(len(reply)))
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			return err
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxMessage {
		return nil, errMessage
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

// answer returns the reply, nil when the request is refused or goes wrong. Why, only the agent knows.
func answer(a agent.ExtendedAgent, request []byte) []byte {
	switch request[0] {
	case msgRequestIdentities:
		return list(a)
	case msgSignRequest:
		return sign(a, request)
	}
	return nil
}

func list(a agent.ExtendedAgent) []byte {
	keys, err := a.List()
	if err != nil {
		return nil
	}
	reply := binary.BigEndian.AppendUint32([]byte{msgIdentitiesAnswer}, uint32(len(keys)))
	for _, k := range keys {
		reply = append(reply, ssh.Marshal(struct {
			Blob    []byte
			Comment string
		}{k.Blob, k.Comment})...)
	}
	return reply
}

func sign(a agent.ExtendedAgent, request []byte) []byte {
	var r struct {
		Blob  []byte `sshtype:"13"`
		Data  []byte
		Flags uint32
	}
	var key struct {
		Format string
		Rest   []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(request, &r) != nil || ssh.Unmarshal(r.Blob, &key) != nil {
		return nil
	}
	signature, err := a.SignWithFlags(&agent.Key{Format: key.Format, Blob: r.Blob}, r.Data, agent.SignatureFlags(r.Flags))
	if err != nil {
		return nil
	}
	return ssh.Marshal(struct {
		Signature []byte `sshtype:"14"`
	}{ssh.Marshal(signature)})
}
