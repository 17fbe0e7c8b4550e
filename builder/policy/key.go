package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// minRSA is the shortest RSA modulus that is trusted, in bits.
const minRSA = 2048

// key is a public key that can check a signature as cosign makes it.
type key struct{ public crypto.PublicKey }

// parseKey reads one PEM block with a public key (PKIX): ECDSA, Ed25519 or RSA.
func parseKey(data []byte) (key, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return key{}, errors.New("no PEM block in it")
	}
	if block.Type != "PUBLIC KEY" {
		return key{}, fmt.Errorf("a PEM block of type %.50q, not PUBLIC KEY", block.Type)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return key{}, err
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key{k}, nil
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return key{}, fmt.Errorf("an RSA key of %d bits, fewer than %d", k.N.BitLen(), minRSA)
		}
		return key{k}, nil
	}
	return key{}, fmt.Errorf("a key of type %T; it must be ECDSA, Ed25519 or RSA", public)
}

// verifies reports whether sig is this key's signature of payload: over its sha256 for
// ECDSA (ASN.1) and RSA (PKCS #1 v1.5), over itself for Ed25519.
func (k key) verifies(payload, sig []byte) bool {
	sum := sha256.Sum256(payload)
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, sum[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(public, payload, sig)
	}
	return false
}
